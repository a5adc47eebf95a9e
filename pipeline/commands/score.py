"""Score a generator's file, or images in a folder or an npz, as a recipe scores its own.

FILE is a safetensors file or a published pickle (nothing in it is run) of the recipe's network, a folder of images at the recipe's
resolution, or an npz of them as OpenAI's evaluator takes it (arr_0 uint8 [N, H, W, 3]). Data and reference statistics are made or
reused. The score goes to stdout with the address of its manifest, which `verify` checks.

examples:
  sida score generator.safetensors --recipe digits
  sida score samples/ --recipe cifar10-uncond --images 10000
  sida score out.npz --recipe cifar10-uncond --images 50000
  sida score generator.safetensors --recipe digits --metric is --metric kid --metric precision_recall
  sida score generator.pkl --recipe imagenet-512-edm2-s --metric fd_dinov2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pipeline import output, running
from pipeline.arguments import AMOUNT, RECIPE_TEXT, REPEAT, STORE, TRUST, argument, file_path, whole
from pipeline.display import open_display
from pipeline.following import drawn
from sida import recipe as recipes
from sida.errors import UserError
from sida.recipe import Recipe
from sida.scoring.also import METRICS, also
from sida.scoring.cleanfid import score_folder
from sida.scoring.file import holds_images, score_file
from sida.scoring.label_rule import LABELS
from sida.scoring.words import label_of, measured_text, spread

ARGUMENTS = (
    argument("file", "FILE", "safetensors file, published pickle, folder of images, or npz of images", type=file_path),
    argument("--recipe", "RECIPE", RECIPE_TEXT, required=True),
    argument("--images", "N", "images per seed range (default: the recipe's)", type=whole(1)),
    argument("--ranges", "N", "seed ranges (default: the recipe's)", type=whole(1)),
    argument("--metric", "NAME", f"also: {', '.join(METRICS)} (may be repeated)", action="append", choices=METRICS),
    argument(
        "--protocol",
        None,
        "best: the lowest range, as publications report it (labeled)",
        choices=("mean", "best"),
    ),
    argument(
        "--backend",
        None,
        "cleanfid-MODE: with clean-fid itself where it is installed; folders of images only",
        choices=("ours", "cleanfid-legacy_tensorflow", "cleanfid-clean"),
        default="ours",
    ),
    TRUST,
    STORE,
    REPEAT,
    AMOUNT,
)


def main(args: argparse.Namespace) -> int:
    """Score, then print the rows."""
    loaded = changed(recipes.load(args.recipe), args)
    running.share(store=args.store, trusted=args.trust_detector)
    if args.backend != "ours":
        options = ("metric", "ranges", "protocol", "repeat")
        _refuse(args, options, f"--backend {args.backend} computes one FID alone, anew")
        score = score_folder(args.file, loaded, args.backend)
        output.result(args, f"{score.metric}\t{score.value:.6g}\t{score.text}", **asdict(score))
        return 0
    if args.file.exists() and holds_images(args.file):
        _refuse(args, ("ranges", "protocol"), f"{args.file} holds images, which are one range")
    running.look_at_gpus(loaded, quiet=args.quiet)
    with drawn(open_display(quiet=args.quiet, verbose=args.verbose)):
        published = score_file(args.file, loaded, repeat=args.repeat or "")
    result = published.manifest.result
    rows = [*result.rows, *result.further, *result.by_steps]
    lines = []
    for row in rows:
        sd = "" if spread(row) is None else " (sd)"
        lines.append(
            f"{row.metric:<18}{measured_text(row, digits=4)}{sd}  n = {row.n:,} x {len(row.values)}  {label_of(row)}"
        )
    rule = str(published.manifest.about.notes.get(LABELS, ""))  # absent: an older version scored it
    lines += [f"labels {rule}"] if rule else []
    lines += [*filter(None, [result.gate]), f"score  {published.address}"]
    fields = {"model", "label", "metric", "mean", "sd", "interval", "n", "values", "protocol"}
    scores = [row.model_dump(mode="json", include=fields) for row in rows]
    output.result(
        args, "\n".join(lines), scores=scores, manifest=published.address, labels=rule or None, verdict=result.gate
    )
    return 0


def _refuse(args: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Raise UserError for an option that would change nothing."""
    if given := [option for option in options if getattr(args, option) is not None]:
        raise UserError(f"--{given[0]}: {why}: leave it out")


def changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """Return the recipe with the changes that the command line asks for."""
    fields = recipe.model_dump(mode="json")
    fields["evaluation"] = evaluation = also(recipe.evaluation, args.metric or ())
    evaluation["images"] = evaluation["images"] if args.images is None else args.images
    evaluation["ranges"] = evaluation["ranges"] if args.ranges is None else args.ranges
    evaluation["protocol"] = args.protocol or evaluation["protocol"]
    return recipes.parse(fields, args.recipe)
