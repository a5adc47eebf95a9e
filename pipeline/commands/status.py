"""Show how a run stands, step by step, and why; without RUN, list the newest runs.

With --profile it is a run on the profile's engine: its states, beside them what the steps' records, pods and events say of why one
waits or failed, as far as you may look. Without, the records of a run in the store are shown (SIDA_STORE, or ./runs/store): of a
run on this machine, or of a cluster's where its store is given. A run that ended without a word is settled: its record says how.

examples:
  sida status                                       the runs in the store
  sida status --profile ./mine.yaml                 the runs on its engine
  sida status 0f3c5a3e-... --profile ./mine.yaml
  sida status 20261102-093000-digits-1a2b
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pipeline import output, profile, remote
from pipeline.arguments import ANY_PROFILE, argument, whole
from pipeline.engines.base import engine_of
from pipeline.observing import Observer
from pipeline.standing import FAILED
from sida import ending, records
from sida.errors import SidaError, UserError
from sida.launch.looker import in_a_line
from sida.settings import settings
from sida.stores import ObjectStore, open_own_store

ARGUMENTS = (
    argument("run", "RUN", "id of the run, as `submit` printed it; here: name of its folder in ./runs", nargs="?"),
    ANY_PROFILE,
    argument("--last", "N", "without RUN: how many to list (default 20)", type=whole(1), default=20),
)


def main(args: argparse.Namespace) -> int:
    """Print the states; exit status 1 for a run that failed, timed out or was cancelled."""
    if args.run is None:
        return _list_cluster(args) if args.profile else _list_store(args)
    return _on_cluster(args) if args.profile else _in_store(args)


# -- one run


def _on_cluster(args: argparse.Namespace) -> int:
    cluster = profile.load(args.profile)
    engine = engine_of(cluster)
    observer = Observer(cluster, args.run)
    seen = observer.look(engine.run(args.run))
    unseen = in_a_line(observer.missing)
    observer.settle(seen)
    link = engine.link(args.run)
    lines = [remote.task_line(step.name, step.state, step.reason()) for step in seen.steps]
    lines += [f"{seen.name}: {seen.state}{f': {seen.message}' if seen.message else ''}", link]
    if unseen:
        print(unseen, file=sys.stderr)
    steps = [
        {
            "name": step.name,
            "state": step.state,
            "error": step.reason() if step.state == FAILED else "",
            "waiting": step.reason() if step.waiting is not None else "",
            "trainjob": step.job or None,
        }
        for step in seen.steps
    ]
    error = seen.message if seen.over else ""
    fields = {"run": args.run, "name": seen.name, "state": seen.state, "error": error, "link": link}
    output.result(args, "\n".join(lines), **fields, unseen=unseen, steps=steps)
    return int(seen.over and seen.state != "SUCCEEDED")


def _in_store(args: argparse.Namespace) -> int:
    store, run = open_own_store(settings().store), args.run
    calls = records.calls(store, run)
    if not calls:
        raise UserError(
            f"no run {run!r} in {store.address}: `status` lists those there are; give --profile, or set SIDA_STORE"
        )
    _settle(store, run)
    lines = [remote.task_line(step, call.state, call.error) for step, call in calls.items()]
    end, how = records.end_of(store, run), ending.ending_of(store, run, calls)
    if how is not None:
        lines.append(f"{run}: {how.state}{f': {how.message}' if how.message else ''}")
    if end is not None:
        lines += [end.standing] if end.standing else []
        lines += [f"webhook: {end.webhook}"] if end.webhook else []
    steps = [
        {"name": step, "state": call.state, "error": call.error, "manifest": call.manifest}
        for step, call in calls.items()
    ]
    fields: dict[str, Any] = {"state": how and how.state, "message": how and how.message}  # None: it goes on
    fields |= {name: getattr(end, name, None) for name in ("standing", "webhook")}
    output.result(args, "\n".join(lines), run=run, **fields, steps=steps)
    bad = how is not None and how.state != ending.SUCCEEDED
    return int(bad or any(call.state == "failed" for call in calls.values()))


def _settle(store: ObjectStore, run: str) -> None:
    """Record the end of a run of this machine that was killed whole; a read-only store is no reason to stop."""
    try:
        ending.end_if_killed(store, run)
    except (SidaError, OSError) as error:
        print(f"its end is not recorded: {error}", file=sys.stderr)


# -- all runs


def _list_cluster(args: argparse.Namespace) -> int:
    cluster = profile.load(args.profile)
    engine = engine_of(cluster)
    runs = engine.runs(args.last)
    states = [
        ending.CANCELLED if run.ended and run.cancelled and run.state != "SUCCEEDED" else run.state for run in runs
    ]
    rows = [(run.run_id, run.created, state, run.name) for run, state in zip(runs, states, strict=True)]
    text = "\n".join(output.aligned(rows, left=4)) or f"no runs in {engine.place}: `submit` starts one"
    fields = [{"run": run, "created": created, "state": state, "name": name} for run, created, state, name in rows]
    output.result(args, text, place=engine.place, runs=fields)
    return 0


def _list_store(args: argparse.Namespace) -> int:
    store = open_own_store(settings().store)
    rows, fields = [], []
    for run in reversed(records.runs(store)[-args.last :]):
        calls = records.calls(store, run)
        _settle(store, run)
        how, begun = ending.ending_of(store, run, calls), next(iter(calls.values())).started
        at_work = [step for step, call in calls.items() if call.state == "started"]
        state = how.state if how is not None else f"{', '.join(at_work)} at work" if at_work else "between two steps"
        message = how.message if how is not None else ""
        rows.append((run, begun, state, message))
        fields.append({"run": run, "begun": begun, "state": how and how.state, "message": message})
    text = (
        "\n".join(output.aligned(rows, left=4))
        or f"no runs in {store.address}: `run` makes one; --profile lists those on a cluster"
    )
    output.result(args, text, store=store.address, runs=fields)
    return 0
