"""Run a recipe on this machine: from teacher and data to the score and a verdict.

Steps whose inputs, settings and results are unchanged are reused. Stopped (Ctrl-C) or killed, the same command continues from the
last checkpoint. Progress goes to stderr, the result to stdout. Exit status: 0 done, 2 something for you to mend, 75 store or server
stayed away, 1 another failure, 130 stopped.

examples:
  sida run digits-sid2a              the demo
  sida run digits --force distill    distill anew, and all that follows
  sida run digits --json | jq .scores
  sida run ./mine.yaml --store s3://bucket/sida
  sida run digits --nodes 2 --node-rank 0 --rendezvous 10.0.0.1:29500 --store s3://bucket/sida
"""

from __future__ import annotations

import argparse
import sys

from pipeline import nodes, output, result, running
from pipeline.arguments import AMOUNT, FORCE, RECIPE, STORE, WAIT
from pipeline.local import Outcome
from sida.ending import end_run, settle_earlier
from sida.errors import SidaError
from sida.settings import settings
from sida.stores import open_store
from sida.tracking.reconcile import track_quietly

ARGUMENTS = (RECIPE, STORE, WAIT, AMOUNT, nodes.add_arguments, FORCE)


def main(args: argparse.Namespace) -> int:
    """Run, then print the result."""
    machines = nodes.machines(args)
    if machines is not None and machines.rank > 0:
        return nodes.join(args, machines)
    with nodes.leading(args, machines) as end:
        recipe, outcome = running.run(args, goal="report", force=args.force)
        end(outcome.status)
    if outcome.status:
        _record(recipe.name, outcome)
        return running.fail(outcome)
    run = result.read(outcome)
    output.result(args, run.as_text(outcome.seconds), **run.as_json(recipe.name, outcome))
    if line := track_quietly(outcome.folder.name):  # after the result, which does not wait for MLflow
        print(line, file=sys.stderr)
    _settle(outcome)
    return 0


def _settle(outcome: Outcome) -> None:
    """Record how earlier runs of this machine that were killed whole ended, and tell MLflow."""
    try:
        for earlier in settle_earlier(open_store(settings().store), outcome.folder.parent, outcome.folder.name):
            print(f"run {earlier} had been killed: recorded as FAILED", file=sys.stderr)
            track_quietly(earlier)
    except (SidaError, OSError) as error:
        print(f"earlier runs are not looked at: {error}", file=sys.stderr)


def _record(recipe: str, outcome: Outcome) -> None:
    """Record in the store the end of a run that failed or was stopped after its first result, and tell MLflow."""
    if outcome.status == 2 and not any(event["state"] == "ran" for event in outcome.steps):
        return  # a mistake of the user
    run, stopped = outcome.folder.name, outcome.status > 128
    try:
        end_run(run, recipe, "CANCELLED" if stopped else "FAILED", outcome.status, outcome.message)
        line = track_quietly(run)
    except (SidaError, OSError) as error:  # the store may be what failed; its own error is reported
        line = f"the run's end is not recorded: {error}"
    if line:
        print(line, file=sys.stderr)
