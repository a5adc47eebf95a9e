"""Write a generator as a folder that needs torch and Pillow, and nothing of this project.

The folder holds the weights (safetensors), a recorded program (torch.export) that takes seeds and classes, a short script that
samples with it, and a README with the licence. The script's images are those of `sample`. It appears when it is whole.

examples:
  sida export generator.safetensors --output my-generator
  python my-generator/sample.py --seeds 0-63 --grid out.png
"""

from __future__ import annotations

import argparse

from pipeline import output
from pipeline.arguments import GENERATOR, RECIPE_OF_FILE, argument, output_folder
from sida import recipe
from sida.export.generator import open_generator

ARGUMENTS = (
    GENERATOR,
    argument("--output", "FOLDER", "a folder that does not exist yet", type=output_folder, required=True),
    RECIPE_OF_FILE,
)


def main(args: argparse.Namespace) -> int:
    """Write the folder, then name its files."""
    generator = open_generator(args.generator, recipe.load(args.recipe) if args.recipe else None)

    from sida.export.program import export_generator  # torch

    files = export_generator(generator, args.output)
    lines = [f"{file}  {file.stat().st_size:,} bytes" for file in files]
    lines.append(f"try: python {args.output / 'sample.py'} --seeds 0-63 --grid grid.png")
    names = [str(file.absolute()) for file in files]
    output.result(args, "\n".join(lines), files=names, licence=generator.licence)
    return 0
