"""Draw images from a finished generator: one network evaluation each, the same image for the same seed.

GENERATOR is a .safetensors file (as `run` names it), or the address of a generator's or run's manifest; with --recipe also a
published pickle, of which nothing is run, or a generator of latents (EDM2), which the recipe's VAE decodes. It computes on this
machine's first GPU, or else its CPU, in float32. At least one of --grid and --output is needed.

examples:
  sida sample generator.safetensors --seeds 0-63 --grid out.png
  sida sample file:///.../steps/compare/KEY/1.json --seeds 7,9 --labels 3 --output images
  sida sample published.pkl --recipe cifar10-uncond-sid2a --grid out.png
  sida sample published.pkl --recipe cifar10-cond-sid2a --draws authors --grid out.png
  sida sample edm2.pkl --recipe imagenet-512-edm2-xs --grid out.png
"""

from __future__ import annotations

import argparse

from pipeline import output
from pipeline.arguments import GENERATOR, argument, output_file, output_folder, whole
from sida import recipe
from sida.errors import UserError
from sida.export.generator import open_generator
from sida.foreign.boundary import no_file
from sida.printing import one_line

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
    argument("--recipe", "RECIPE", "where the file does not say its network, or makes latents"),
    argument("--batch", "N", "images made at once (default 64)", type=whole(1), default=64),
)


def main(args: argparse.Namespace) -> int:
    """Draw, then name the files."""
    if args.grid is None and args.output is None:
        raise UserError("nothing to write: give --grid FILE, or --output FOLDER")
    if (
        args.grid is not None and args.grid.exists() and (problem := no_file(args.grid))
    ):  # which the picture would replace
        raise UserError(f"--grid {args.grid}: {problem}: name another one")
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
    images = sampling.sample(generator, args.seeds, labels, noise=noise, batch=args.batch, decode=decode)
    if args.grid is not None:
        sampling.write_grid(args.grid, images)
    if args.output is not None:
        sampling.write_images(args.output, args.seeds, images)
    written = {"grid": args.grid, "folder": args.output}
    files = {name: str(path.absolute()) for name, path in written.items() if path is not None}
    size = " x ".join(str(side) for side in images.shape[1:])
    lines = [f"{name:<7} {file}" for name, file in files.items()]
    lines.append(f"{len(images):,} images of {size}; licence of the weights: {generator.licence}")
    output.result(args, "\n".join(lines), images=len(images), licence=generator.licence, **files)
    return 0
