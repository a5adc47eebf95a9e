"""Draw images from a finished generator: the same image for the same seed.

GENERATOR is a .safetensors file (as `run` names it), or the address of a generator's or run's manifest; with --recipe also a
published pickle, of which nothing is run, or a generator of latents (EDM2), which the recipe's VAE decodes. It computes on this
machine's first GPU, or else its CPU, in float32. At least one of --grid, --output and --npz is needed.

examples:
  sida sample generator.safetensors --seeds 0-63 --grid out.png
  sida sample file:///.../steps/compare/KEY/1.json --seeds 7,9 --labels 3 --output images
  sida sample published.pkl --recipe cifar10-uncond-sid2a --grid out.png
  sida sample generator.safetensors --seeds 0-49999 --npz out.npz
  sida sample published.pkl --recipe cifar10-cond-sid2a --draws authors --grid out.png
  sida sample edm2.pkl --recipe imagenet-512-edm2-xs --grid out.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline import output
from pipeline.arguments import GENERATOR, argument, output_file, output_folder, whole
from sida import recipe
from sida.errors import UserError
from sida.export.generator import open_generator
from sida.foreign.boundary import no_file
from sida.printing import one_line
from sida.scoring.label_rule import label_rule

if TYPE_CHECKING:
    from torch import Tensor

MOST = 1_000_000


def numbers(text: str) -> list[int]:
    """Return the numbers of ``0-63`` or ``1,5,9`` or both, in order."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        digits = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in digits):
            raise argparse.ArgumentTypeError(f"expected numbers such as 0-63 or 1,5,9, found {one_line(text, 40)!r}")
        start, stop = int(first), int(last if dash else first)
        if stop < start or stop - start + len(chosen) >= MOST:
            raise argparse.ArgumentTypeError(f"{part}: give first-last, and {MOST:,} numbers at most")
        chosen += range(start, stop + 1)
    return chosen


ARGUMENTS = (
    GENERATOR,
    argument("--seeds", "A-B", "0-63 (default), or 1,5,9", type=numbers, default="0-63"),
    argument("--labels", "LIST", "classes, in turn: 3 or 0-9 (default: all)", type=numbers),
    argument(
        "--draws",
        None,
        "whose noise a seed stands for: that of scores (default), or that of the SiD authors' image writer, and its classes",
        choices=("ours", "authors"),
        default="ours",
    ),
    argument("--grid", "FILE", "write one PNG with all images", type=output_file),
    argument("--output", "FOLDER", "write a PNG for each seed", type=output_folder),
    argument(
        "--npz",
        "FILE",
        "write all as OpenAI's evaluator takes them: arr_0 uint8 [N, H, W, 3], classes in arr_1",
        type=output_file,
    ),
    argument("--recipe", "RECIPE", "where the file does not say its network, or makes latents"),
    argument("--batch", "N", "images made at once (default 64)", type=whole(1), default=64),
)


def main(args: argparse.Namespace) -> int:
    """Draw, then name the files."""
    if args.grid is None and args.output is None and args.npz is None:
        raise UserError("nothing to write: give --grid FILE, --output FOLDER, or --npz FILE")
    for option, path in (("--grid", args.grid), ("--npz", args.npz)):
        if path is not None and path.exists() and (problem := no_file(path)):  # which the file would replace
            raise UserError(f"{option} {path}: {problem}: name another one")
    of_file = recipe.load(args.recipe) if args.recipe else None
    generator = open_generator(args.generator, of_file)

    from sida import devices
    from sida.export import sample as sampling  # torch

    device = devices.claim()
    generator.denoiser.to(device)
    decode = sampling.decoder_for(generator, of_file, device)
    authors = args.draws == "authors"
    if authors and not args.labels:
        labels = sampling.authors_labels(generator, args.seeds)
    else:
        labels = sampling.labels_for(generator, len(args.seeds), args.labels)
    noise = sampling.authors_noise if authors else sampling.sampling_noise
    parts = sampling.sample(generator, args.seeds, labels, noise=noise, batch=args.batch, decode=decode)
    channels, side = generator.shape[:2] if decode is None or of_file is None else of_file.dataset.picture
    _write(args, side, labels if generator.classes else None, parts)
    written = {"grid": args.grid, "folder": args.output, "npz": args.npz}
    files = {name: str(path.absolute()) for name, path in written.items() if path is not None}
    rule = label_rule(labels.bincount(minlength=generator.classes).tolist() if generator.classes else ())
    lines = [f"{name:<7} {file}" for name, file in files.items()]
    lines.append(f"labels  {rule}")
    size = f"{channels} x {side} x {side}"
    lines.append(f"{len(args.seeds):,} images of {size}; licence of the weights: {generator.licence}")
    output.result(args, "\n".join(lines), images=len(args.seeds), labels=rule, licence=generator.licence, **files)
    return 0


def _write(args: argparse.Namespace, resolution: int, classes: Tensor | None, parts: Iterator[Tensor]) -> None:
    """Write each part of the images as it is made; a grid alone waits for them all."""
    import torch

    from sida.export import sample as sampling
    from sida.export.npz import writing_npz

    shown, start = [], 0
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        into_npz = None
        if args.npz is not None:
            into_npz = stack.enter_context(writing_npz(args.npz, len(args.seeds), resolution, classes))
        for images in parts:
            if into_npz is not None:
                into_npz(images)
            if args.output is not None:
                sampling.write_images(args.output, args.seeds[start : start + len(images)], images)
            if args.grid is not None:
                shown.append(images)
            start += len(images)
    if args.grid is not None:
        sampling.write_grid(args.grid, torch.cat(shown))
