"""Write a generator as a folder that needs torch and Pillow, and nothing of this project.

The folder holds the weights (safetensors), a recorded program (torch.export) that takes seeds and classes, a short script that
samples with it, and a README with the licence. The script's images are those of `sample`. It appears when it is whole.

examples:
  python -m pipeline export generator.safetensors --output my-generator
  python my-generator/sample.py --seeds 0-63 --grid out.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """GENERATOR, --output FOLDER."""
    parser.add_argument("generator", metavar="GENERATOR", help="a file, or the address of a manifest")
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--recipe", metavar="RECIPE", help="of a file that does not say its network itself")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> int:
    """Write the folder, then name its files."""
    from sida import recipe
    from sida.export.generator import open_generator

    generator = open_generator(args.generator, recipe.load(args.recipe) if args.recipe else None)

    from sida.export.program import export_generator

    files = export_generator(generator, args.output)
    if args.json:
        print(json.dumps({"files": [str(file.absolute()) for file in files], "licence": generator.licence}, indent=1))
        return 0
    for file in files:
        print(f"{file}  {file.stat().st_size:,} bytes")
    print(f"try: python {args.output / 'sample.py'} --seeds 0-63 --grid grid.png")
    return 0
