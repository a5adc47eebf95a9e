"""Score a generator's file, or a folder of images, as a recipe scores its own.

FILE is a safetensors file or a published pickle (nothing in it is run) of the recipe's network, or a folder of images at the
recipe's resolution. Data and reference statistics are made or reused. The score goes to stdout with the address of its manifest,
which `verify` checks.

examples:
  sida score generator.safetensors --recipe digits
  sida score samples/ --recipe cifar10-uncond --images 10000
  sida score generator.safetensors --recipe digits --metric is --metric kid --metric precision_recall
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sida.recipe import Recipe

METRICS = ("is", "kid", "precision_recall")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add FILE, the recipe, and what to measure."""
    from pipeline import output

    parser.add_argument(
        "file", metavar="FILE", type=Path, help="safetensors file, published pickle, or folder of images"
    )
    parser.add_argument("--recipe", metavar="RECIPE", required=True, help="name of a recipe, or path of a YAML file")
    parser.add_argument("--images", metavar="N", type=int, help="images per seed range (default: the recipe's)")
    parser.add_argument("--ranges", metavar="N", type=int, help="seed ranges (default: the recipe's)")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        choices=METRICS,
        help="also: is, kid, precision_recall (may be repeated)",
    )
    parser.add_argument(
        "--protocol", choices=("mean", "best"), help="best: the lowest range, as publications report it (labeled)"
    )
    parser.add_argument(
        "--backend",
        choices=("ours", "cleanfid-legacy_tensorflow", "cleanfid-clean"),
        default="ours",
        help="cleanfid-MODE: with clean-fid itself where it is installed; folders of images only",
    )
    add_trust(parser)
    parser.add_argument(
        "--store", metavar="ADDRESS", help="where results are kept (default: SIDA_STORE, or ./runs/store)"
    )
    parser.add_argument("--repeat", metavar="TEXT", default="", help="another text measures anew (default: reuse)")
    output.add_amount(parser)
    output.add_json(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust-detector."""
    parser.add_argument(
        "--trust-detector",
        metavar="SHA256",
        action="append",
        default=[],
        help="run a TorchScript detector of this digest: such a file holds code, and only the published Inception runs by itself",
    )


def use_trust(args: argparse.Namespace) -> None:
    """Trust the detectors in this process and in all that it starts."""
    if args.trust_detector:
        trusted = os.environ.get("SIDA_TRUST_DETECTOR", "")
        os.environ["SIDA_TRUST_DETECTOR"] = ",".join([*filter(None, [trusted]), *args.trust_detector])


def main(args: argparse.Namespace) -> int:
    """Score, then print the rows."""
    from pipeline import output
    from pipeline.display import open_display
    from pipeline.following import drawn
    from sida import recipe as recipes
    from sida.scoring.file import score_file
    from sida.settings import settings
    from sida.stores import open_store

    loaded = changed(recipes.load(args.recipe), args)
    use_trust(args)
    settings()
    if args.store:
        os.environ["SIDA_STORE"] = open_store(args.store).address
    if args.backend != "ours":
        from sida.scoring.cleanfid import score_folder

        found = score_folder(args.file, loaded, args.backend)
        output.result(args, f"{found.metric}\t{found.value:.6g}\t{found.text}", **asdict(found))
        return 0
    with drawn(open_display(quiet=args.quiet, verbose=args.verbose)):
        published = score_file(args.file, loaded, repeat=args.repeat)
    result: Any = published.manifest.result
    rows = [*result.rows, *result.further]
    lines = []
    for row in rows:
        half = "" if row.interval is None else f" +- {row.interval:.3f} (95%)"
        lines.append(f"{row.metric:<18}{row.reported:.4f}{half}  n = {row.n:,} x {len(row.values)}  {row.label}")
    lines += [*filter(None, [result.gate]), f"score  {published.address}"]
    fields = {"model", "label", "metric", "mean", "sd", "interval", "n", "values", "protocol"}
    scores = [row.model_dump(mode="json", include=fields) for row in rows]
    output.result(args, "\n".join(lines), scores=scores, manifest=published.address, verdict=result.gate)
    return 0


def changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """Return the recipe with the changes that the command line asks for."""
    from sida.recipe import parse

    fields = recipe.model_dump(mode="json")
    evaluation = fields["evaluation"]
    evaluation["images"] = evaluation["images"] if args.images is None else args.images
    evaluation["ranges"] = evaluation["ranges"] if args.ranges is None else args.ranges
    evaluation["protocol"] = args.protocol or evaluation["protocol"]
    evaluation["extra_metrics"] = sorted({*evaluation["extra_metrics"], *(args.metric or ())})
    return parse(fields, args.recipe)
