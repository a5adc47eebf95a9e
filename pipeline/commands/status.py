"""Show how a run stands, step by step.

With --profile it is a run on Kubeflow Pipelines. Without, the records of a run in the store are shown (SIDA_STORE, or
./runs/store): of a run on this machine, or of a cluster's where its store is given; they tell why a step failed.

examples:
  python -m pipeline status 0f3c5a3e-... --profile ./mine.yaml
  python -m pipeline status 20261102-093000-digits-1a2b
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN and where."""
    from pipeline import remote

    parser.add_argument(
        "run", metavar="RUN", help="id of the run, as `submit` printed it; here: name of its folder in ./runs"
    )
    remote.add_profile(parser, required=False)


def main(args: argparse.Namespace) -> int:
    """The states; exit status 1 for a run that failed."""
    return _on_kubeflow(args) if args.profile else _in_store(args.run)


def _on_kubeflow(args: argparse.Namespace) -> int:
    from pipeline import profile, remote
    from pipeline.client import Client

    client = Client(profile.load(args.profile))
    state = client.run(args.run)
    for step, (task, error) in remote.ours(state).items():
        print(remote.task_line(step, task, error))
    print(f"{state.name}: {state.state}{f': {state.error}' if state.error else ''}")
    print(client.link(args.run))
    return 1 if state.state == "FAILED" else 0


def _in_store(run: str) -> int:
    from pipeline import remote
    from sida import records
    from sida.errors import UserError
    from sida.settings import settings
    from sida.stores import open_store

    store = open_store(settings().store)
    calls = records.calls(store, run)
    if not calls:
        raise UserError(f"no run {run!r} in {store.address}: check the id, give --profile, or set SIDA_STORE")
    for step, call in calls.items():
        print(remote.task_line(step, call.state, call.error))
    end = records.end_of(store, run)
    if end is not None:
        print(f"{run}: {end.state}{f': {end.message}' if end.message else ''}")
        if end.standing:
            print(end.standing)
        if end.webhook:
            print(f"webhook: {end.webhook}")
    return 1 if any(call.state == "failed" for call in calls.values()) else 0
