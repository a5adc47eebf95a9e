"""Check that a score rests on what it says it does.

SCORE is the address of a score's manifest, as `score` and `run` print it (a run's manifest works too). Everything below it is read
and hashed again: recipe, teacher, data, reference, detector, checkpoint; its seeds are compared with those that the checkpoint was
selected by, and what a result repeats (rows and verdict of a run, mean of a score) with what it follows from. Exit status: 0 all is
as it was, 1 something is not, 2 a manifest below it is none that a step writes.

examples:
  sida verify file:///.../steps/score/KEY/1.json
  sida verify ADDRESS --list          every object that the score rests on, one address a line
  sida verify ADDRESS --recompute     score again and compare
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import output, running
from pipeline.arguments import AMOUNT, TRUST, argument, flag, one_of
from pipeline.display import open_display
from pipeline.following import drawn
from sida import verify as chains
from sida.addresses import checked, redact
from sida.errors import Corrupt
from sida.printing import one_line
from sida.verify import Recomputed, recompute

ARGUMENTS = (
    argument("score", "SCORE", "address of the manifest: file:///..., s3://... or a path"),
    one_of(
        flag("--list", "print the address of every object, and check nothing"),
        flag("--recompute", "score again from these objects, and compare"),
    ),
    TRUST,
    AMOUNT,
)


def main(args: argparse.Namespace) -> int:
    """Walk, hash, perhaps compute again."""
    running.share(trusted=args.trust_detector)
    address = checked(args.score, "SCORE", ("file", "s3"))
    address = address if "://" in address else str(Path(address).absolute())
    try:
        chain = chains.verify(address, hashing=not args.list)
    except Corrupt as error:  # this very manifest: there is nothing below it to look at
        print(f"error: {error}", file=sys.stderr)
        problem = {"what": "manifest", "address": redact(address), "problem": str(error)}
        output.result(args, "", holds=False, objects=1, problems=[problem], remarks=[], recomputed=[])
        return 1
    for remark in chain.remarks:
        output.note(args, f"note: {remark}")
    for link in chain.problems:
        print(one_line(f"error: {link.what}: {link.problem}"), file=sys.stderr)
    lines, fields = [], {"problems": [asdict(link) for link in chain.problems], "remarks": chain.remarks}
    if args.list:
        lines += [link.address for link in chain.links if link.address and not link.problem]
        fields["addresses"] = [*lines]
    elif not chain.problems:
        lines.append(f"{len(chain.links)} objects are what they were; checkpoint, detector, reference and seeds agree")
    again = _recompute(args, chain) if args.recompute and not chain.problems else []
    for row in again:
        values = ", ".join(f"{value:.6g}" for value in row.again.values)
        outcome = (
            f"{'agrees' if row.agrees else 'DIFFERS'}, largest relative difference {row.difference:.2e} ({values})"
        )
        lines.append(f"{row.published.metric}  {row.published.label}: {outcome}")
    holds = not chain.problems and all(row.agrees for row in again)
    recomputed = [
        {"metric": row.again.metric, "label": row.again.label, "agrees": row.agrees, "difference": row.difference}
        for row in again
    ]
    said = None if args.list and holds else holds  # of what was not hashed nobody knows
    output.result(args, "\n".join(lines), holds=said, objects=len(chain.links), **fields, recomputed=recomputed)
    return 0 if holds else 1


def _recompute(args: argparse.Namespace, chain: chains.Chain) -> list[Recomputed]:
    running.share(store=chain.store.address)
    with drawn(open_display(quiet=args.quiet, verbose=args.verbose)):
        return recompute(chain)
