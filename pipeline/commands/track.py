"""Write runs to MLflow, from what the store knows: to complete it after an outage, or to fill a new or emptied one.

Runs are written once, found by tag, and never doubled; a repetition adds nothing. Where: MLFLOW_TRACKING_URI (default: the SQLite
file mlflow.db under SIDA_RUNS, which `sida ui` shows).

examples:
  sida track                                    every run in the store
  sida track 20261125-004815-digits-c596        one run
  MLFLOW_TRACKING_URI=http://mlflow:5000 sida track
"""

from __future__ import annotations

import argparse
import sys

from pipeline import output
from pipeline.arguments import STORE, argument
from sida import records
from sida.errors import UserError
from sida.settings import settings
from sida.stores import open_own_store
from sida.tracking.reconcile import track
from sida.tracking.server import TrackingOff

ARGUMENTS = (argument("runs", "RUN", "ids of runs (default: all in the store, oldest first)", nargs="*"), STORE)


def main(args: argparse.Namespace) -> int:
    """Write the runs; status 2 when MLflow cannot be written, 1 when some runs could not be read."""
    store = open_own_store(args.store or settings().store)
    runs = args.runs or records.runs(store)
    if not runs:
        raise UserError(f"no runs in {store.address}: check --store, or run a recipe first")
    written, left_out = [], {}
    for run in runs:
        try:
            output.part(args, track(run, store))
        except TrackingOff as error:
            raise UserError(str(error)) from error
        except UserError as error:
            if args.runs:
                raise
            left_out[run] = str(error)
            print(f"left out: {error}", file=sys.stderr)
            continue
        written.append(run)
    output.result(args, "", written=written, left_out=left_out)
    return 0 if written else 1
