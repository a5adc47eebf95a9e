"""Train a recipe's diffusion teacher, for benchmarks that have none to fetch.

The recipe needs a section teacher.train. The teacher (for the digits also their detector) is written to a folder, with the
digests that a recipe names. Stopped or killed, the same command continues from the last checkpoint; seeds are fixed, so that
it makes the same files again.

examples:
  sida teach digits                          writes to ./assets
  sida teach digits --output recipes/assets
  sida teach digits --force teach            train anew
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from pipeline import output, running
from pipeline.arguments import AMOUNT, RECIPE, STORE, WAIT, argument, output_folder
from sida.manifests import DatasetResult, TeacherResult, of_kind, parse_manifest
from sida.stores import read_address
from sida.training.assets import export_assets

ARGUMENTS = (
    RECIPE,
    STORE,
    WAIT,
    AMOUNT,
    argument("--force", "STEP", "make a new attempt: prepare_data or teach", action="append", default=[]),
    argument(
        "--output", "FOLDER", "folder for the files (default ./assets)", type=output_folder, default=Path("assets")
    ),
)


def main(args: argparse.Namespace) -> int:
    """Train, write the files, then print their fields and digests."""
    recipe, outcome = running.run(args, goal="teach", force=args.force)
    if outcome.status:
        return running.fail(outcome)
    addresses = [outcome.manifest(step) for step in ("teach", "prepare_data")]
    teacher, dataset = (parse_manifest(read_address(address), address) for address in addresses)
    assets = export_assets(
        recipe, of_kind(teacher, TeacherResult, "teach"), of_kind(dataset, DatasetResult, "prepare_data"), args.output
    )
    lines = [f"{asset.field}:\n  address: {asset.path}\n  sha256: {asset.sha256}  # {asset.note}" for asset in assets]
    output.result(args, "\n".join(lines), recipe=recipe.name, assets=[asdict(asset) for asset in assets])
    return 0
