"""Write into a recipe the sha256 of every file that it names without one, and the revision of a VAE's repository.

Files are fetched where their digest is not known yet. The file keeps its comments and layout: only lines `sha256:` and `revision:`
are added or filled. What a base recipe (`extends`) names belongs into the base's file: that is said, pin that.

examples:
  sida pin ./mine.yaml
  sida pin cifar10-uncond --dry-run
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pipeline import output
from pipeline.arguments import RECIPE, flag
from pipeline.pinning import pin, pinned_elsewhere
from sida.recipe import find

ARGUMENTS = (RECIPE, flag("--dry-run", "say what would be written, fetch what is not known"))


def main(args: argparse.Namespace) -> int:
    """Print each digest; write them all at once, or nothing."""
    path = find(args.recipe)
    pins = pin(path, write=not args.dry_run)
    lines = [f"{each.field}: {each.value}  {each.address}" for each in pins]
    done = "would be written" if args.dry_run else "written"
    lines.append(f"{path}: {len(pins)} pins {done}" if pins else f"{path}: all that it names itself is pinned")
    elsewhere = pinned_elsewhere(path, pins)
    fields = [asdict(each) for each in pins]
    written = bool(pins) and not args.dry_run
    output.result(args, "\n".join([*lines, *elsewhere]), recipe=path, written=written, pins=fields, elsewhere=elsewhere)
    return 0
