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
    from pipeline import output

    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `list`), or path of a YAML file")
    output.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """The resolved recipe as YAML."""
    from pipeline import output
    from sida import recipe
    from sida.recipe_origins import annotated, origins

    loaded, path, sources = recipe.load(args.recipe), recipe.find(args.recipe), origins(args.recipe)
    text = f"# resolved from {path}\n{annotated(loaded, sources)}"
    output.result(args, text.rstrip("\n"), recipe=loaded.model_dump(mode="json"), path=path, origins=sources)
    return 0
