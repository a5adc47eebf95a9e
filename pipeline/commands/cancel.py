"""Cancel a run on the profile's engine, with the TrainJobs that its steps started.

The engine ends pods and knows nothing of TrainJobs: these are deleted, or suspended where the profile's trainjob.on_termination
says so.
What its steps have published stays, and so do checkpoints: submitting the same recipe again continues from them.

examples:
  sida cancel 0f3c5a3e-... --profile ./mine.yaml
"""

from __future__ import annotations

import argparse
import sys

from pipeline import output, profile, remote, trainjobs
from pipeline.arguments import PROFILE, argument
from pipeline.engines.base import engine_of
from sida import ending
from sida.errors import SidaError

ARGUMENTS = (argument("run", "RUN", "id of the run, as `submit` printed it"), PROFILE)


def main(args: argparse.Namespace) -> int:
    """Ask the engine to end the run."""
    cluster = profile.load(args.profile)
    before = engine_of(cluster).cancel(args.run)
    was = ending.CANCELLED if before.cancelled else before.state
    output.part(args, f"{before.name}: {f'had ended already, {was}' if before.ended else 'cancelling'}")
    if not before.ended:
        _record(args.run, cluster)
    jobs: list[str] = []
    for launcher in trainjobs.launchers(cluster, args.run):
        jobs.append(launcher.stop())
        output.part(args, jobs[-1])
    state = was if before.ended else "CANCELING"
    output.result(args, "", run=args.run, name=before.name, state=state, trainjobs=jobs)
    return 0


def _record(run: str, cluster: profile.Profile) -> None:
    """Record the cancellation in the store: engines call a cancelled run failed in the end."""
    try:
        with remote.store_at_hand(cluster) as store:
            ending.cancel(store, run, "by `cancel`")
    except (SidaError, OSError) as error:
        print(f"not recorded in the store, whose records may call it failed: {error}", file=sys.stderr)
