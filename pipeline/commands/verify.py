"""Check that a score rests on what it says it does.

SCORE is the address of a score's manifest, as `score` and `run` print it (a run's manifest works too). Everything below it is read
and hashed again: recipe, teacher, data, reference, detector, checkpoint; its seeds are compared with those that the checkpoint was
selected by. Exit status: 0 all is as it was, 1 something is not.

examples:
  python -m pipeline verify file:///.../steps/score/KEY/1.json
  python -m pipeline verify ADDRESS --list          every object that the score rests on, one address a line
  python -m pipeline verify ADDRESS --recompute     score again and compare
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SCORE and how far to go."""
    from pipeline.commands.score import add_trust

    parser.add_argument("score", metavar="SCORE", help="address of the manifest: file:///..., s3://... or a path")
    parser.add_argument("--list", action="store_true", help="print the address of every object, and check nothing")
    parser.add_argument("--recompute", action="store_true", help="score again from these objects, and compare")
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Walk, hash, perhaps compute again."""
    from pathlib import Path

    from pipeline.commands.score import use_trust
    from sida.scoring import verify as chains

    use_trust(args)
    address = args.score if "://" in args.score else str(Path(args.score).absolute())
    _know_all_steps()
    chain = chains.verify(address, hashing=not args.list)
    if args.list:
        for link in chain.links:
            if link.address and not link.problem:
                print(link.address)
    for remark in chain.remarks:
        print(f"note: {remark}", file=sys.stderr)
    for link in chain.problems:
        print(f"error: {link.what}: {link.problem}", file=sys.stderr)
    if chain.problems:
        return 1
    if not args.list:
        print(f"{len(chain.links)} objects are what they were; checkpoint, detector, reference and seeds agree")
    return _recompute(chain) if args.recompute else 0


def _know_all_steps() -> None:
    """Steps register themselves: without them their code could not be compared."""
    import sida.data.prepare
    import sida.scoring.adopt
    import sida.scoring.images
    import sida.scoring.labels
    import sida.scoring.reference
    import sida.scoring.score
    import sida.teachers.fetch
    import sida.training.distill
    import sida.training.teacher  # noqa: F401


def _recompute(chain: object) -> int:
    from sida.scoring.recompute import recompute
    from sida.scoring.verify import Chain

    assert isinstance(chain, Chain)
    os.environ["SIDA_STORE"] = chain.store.address
    status = 0
    for row in recompute(chain):
        word = "agrees" if row.agrees else "DIFFERS"
        status = status if row.agrees else 1
        values = ", ".join(f"{value:.6g}" for value in row.again.values)
        print(
            f"{row.published.metric}  {row.published.label}: {word}, largest relative difference {row.difference:.2e} ({values})"
        )
    return status
