"""Write a prepared data set as WebDataset tars, for other people's tools.

MANIFEST is what prepare_data printed: an address in the store, or a file. Every sample is a PNG (of latents an .npy) and, with
classes, a .cls; the order is that of the shards. The tars can be read back with source webdataset.

examples:
  sida export-webdataset runs/store/steps/prepare_data/KEY/1.json --output ./tars
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import output
from pipeline.arguments import argument, output_folder, whole
from sida.errors import UserError
from sida.foreign.boundary import no_file
from sida.manifests import DatasetResult, parse_manifest
from sida.origin import store_of
from sida.stores import read_address

ARGUMENTS = (
    argument("manifest", "MANIFEST", "address or file of a data set's manifest"),
    argument("--output", "FOLDER", "folder for the tars", type=output_folder, required=True),
    argument("--samples", "N", "samples in a tar (default 10,000)", type=whole(1), default=10_000),
)


def main(args: argparse.Namespace) -> int:
    """Export, then name the tars."""
    from sida.data.export import export_webdataset  # torch
    from sida.data.shards import Shards

    path, place = Path(args.manifest), args.manifest
    if path.exists() and (problem := no_file(path)):
        raise UserError(f"{path} {problem}: give a manifest")
    if path.is_file():
        place = f"file://{path.absolute()}"
    content = read_address(place)
    manifest = parse_manifest(content, args.manifest)
    if not isinstance(manifest.result, DatasetResult):
        raise UserError(f"{args.manifest}: is a {manifest.result.kind} manifest, this takes a dataset manifest")
    shards = Shards(store_of(manifest, place), manifest.result)
    written = export_webdataset(shards, args.output, samples_per_tar=args.samples)
    summary = f"{len(shards):,} samples in {len(written)} tars: {written[0]} ... {written[-1].name}"
    output.result(args, summary, samples=len(shards), tars=[str(tar.absolute()) for tar in written])
    return 0
