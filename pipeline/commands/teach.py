"""Train a recipe's diffusion teacher, for benchmarks that have none to fetch.

The recipe needs a section teacher.train. The teacher is published in the store; to ship it, copy it and name its address and sha256
in the recipe. Stopped or killed, the same command continues from the last checkpoint.

examples:
  python -m pipeline teach digits
  python -m pipeline teach digits --force teach    train anew
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE and how to run it."""
    from pipeline import running

    running.add_arguments(parser)
    parser.add_argument(
        "--force", metavar="STEP", action="append", default=[], help="make a new attempt: prepare_data or teach"
    )


def main(args: argparse.Namespace) -> int:
    """Train, then print where the teacher is."""
    from pipeline import result, running

    _, outcome = running.run(args, goal="teach", force=args.force)
    if outcome.status:
        return running.fail(outcome)
    print(result.teacher_text(outcome))
    return 0
