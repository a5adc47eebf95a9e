"""Cancel a run on Kubeflow Pipelines.

What its steps have published stays, and so do checkpoints: submitting the same recipe again continues from them.

examples:
  python -m pipeline cancel 0f3c5a3e-... --profile ./mine.yaml
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN and where."""
    from pipeline import remote

    parser.add_argument("run", metavar="RUN", help="id of the run, as `submit` printed it")
    remote.add_profile(parser)


def main(args: argparse.Namespace) -> int:
    """Ask KFP to end it."""
    from pipeline import profile
    from pipeline.client import Client

    before = Client(profile.load(args.profile)).cancel(args.run)
    print(f"{before.name}: {f'had ended already, {before.state}' if before.ended else 'cancelling'}")
    return 0
