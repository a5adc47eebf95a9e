"""Show a recipe with everything filled in, as it will be run.

What the recipe leaves out is shown with its default. The output is a recipe itself: save it, change it, run it by its path.

examples:
  python -m pipeline show digits
  python -m pipeline show digits > mine.yaml && python -m pipeline run ./mine.yaml
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `list`), or path of a YAML file")


def main(args: argparse.Namespace) -> int:
    """The resolved recipe as YAML."""
    import yaml

    from sida import recipe

    loaded = recipe.load(args.recipe)
    print(f"# resolved from {recipe.find(args.recipe)}")
    print(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, width=110), end="")
    return 0
