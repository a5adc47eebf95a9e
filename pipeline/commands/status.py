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
    from pipeline import output, remote

    parser.add_argument(
        "run", metavar="RUN", help="id of the run, as `submit` printed it; here: name of its folder in ./runs"
    )
    remote.add_profile(parser, required=False)
    output.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """The states; exit status 1 for a run that failed."""
    return _on_kubeflow(args) if args.profile else _in_store(args)


def _on_kubeflow(args: argparse.Namespace) -> int:
    from pipeline import output, profile, remote, trainjobs
    from pipeline.client import Client

    where = profile.load(args.profile)
    client = Client(where)
    state = client.run(args.run)
    cluster = trainjobs.cluster_of(where)
    jobs = trainjobs.jobs_of(cluster, args.run) if cluster is not None else {}
    tasks = remote.ours(state) | {step: ("", "") for step in jobs.keys() - remote.ours(state).keys()}
    in_words = {step: trainjobs.in_words(job) for step, job in jobs.items()}
    lines = [remote.task_line(step, task, error or in_words.get(step, "")) for step, (task, error) in tasks.items()]
    link = client.link(args.run)
    lines += [f"{state.name}: {state.state}{f': {state.error}' if state.error else ''}", link]
    steps = [
        {"name": step, "state": task, "error": error, "trainjob": in_words.get(step)}
        for step, (task, error) in tasks.items()
    ]
    told = {"run": args.run, "name": state.name, "state": state.state, "error": state.error, "link": link}
    output.result(args, "\n".join(lines), **told, steps=steps)
    return 1 if state.state == "FAILED" else 0


def _in_store(args: argparse.Namespace) -> int:
    from pipeline import output, remote
    from sida import records
    from sida.errors import UserError
    from sida.settings import settings
    from sida.stores import open_store

    store, run = open_store(settings().store), args.run
    calls = records.calls(store, run)
    if not calls:
        raise UserError(f"no run {run!r} in {store.address}: check the id, give --profile, or set SIDA_STORE")
    lines = [remote.task_line(step, call.state, call.error) for step, call in calls.items()]
    end = records.end_of(store, run)
    if end is not None:
        lines.append(f"{run}: {end.state}{f': {end.message}' if end.message else ''}")
        lines += [end.standing] if end.standing else []
        lines += [f"webhook: {end.webhook}"] if end.webhook else []
    steps = [
        {"name": step, "state": call.state, "error": call.error, "manifest": call.manifest}
        for step, call in calls.items()
    ]
    told = {name: getattr(end, name, None) for name in ("state", "message", "standing", "webhook")}  # None: it goes on
    output.result(args, "\n".join(lines), run=run, **told, steps=steps)
    return 1 if any(call.state == "failed" for call in calls.values()) else 0
