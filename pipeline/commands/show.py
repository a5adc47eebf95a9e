"""Show a recipe with everything filled in, as it will be run, and where each value comes from.

Behind each value stands the file and line that set it (the recipe's own, or one that it extends), or "default". The output is a
recipe itself: save it, change it, run it by its path.

examples:
  python -m pipeline show digits
  python -m pipeline show cifar10-uncond-sid2a | grep -v default
  python -m pipeline show digits > mine.yaml && python -m pipeline run ./mine.yaml
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `list`), or path of a YAML file")


def main(args: argparse.Namespace) -> int:
    """The resolved recipe as YAML."""
    from sida import recipe
    from sida.recipe_origins import annotated, origins

    loaded = recipe.load(args.recipe)
    print(f"# resolved from {recipe.find(args.recipe)}")
    print(annotated(loaded, origins(args.recipe)), end="")
    return 0
