"""Show a recipe with everything filled in, as it will be run, and where each value comes from.

Behind each value stands the file and line that set it (the recipe's own, or one that it extends), or "default". The output is a
recipe itself: save it, change it, run it by its path. --addresses lists what is fetched from the internet instead, for a machine
that has none: `wget -x` keeps the files as SIDA_MIRROR wants them (docs/benchmarks.md).

examples:
  sida show digits
  sida show cifar10-uncond-sid2a | grep -v default
  sida show cifar10-uncond --addresses | wget -x -P mirror -i -
  sida show digits > mine.yaml && sida run ./mine.yaml
"""

from __future__ import annotations

import argparse
import sys

from pipeline import output
from pipeline.arguments import RECIPE, flag
from sida import recipe
from sida.recipe.origins import annotated, origins

ARGUMENTS = (RECIPE, flag("--addresses", "print the https addresses that the recipe names, one a line"))


def main(args: argparse.Namespace) -> int:
    """Print the resolved recipe as YAML."""
    loaded, path, sources = recipe.load(args.recipe, to_show=True), recipe.find(args.recipe), origins(args.recipe)
    if args.addresses:
        addresses = [address for address in recipe.addresses(loaded).values() if address.startswith("https://")]
        if loaded.dataset.latents is not None:
            vae = loaded.dataset.latents.vae
            print(f"and dataset.latents.vae: the repository or folder {vae}", file=sys.stderr)
        output.result(args, "\n".join(addresses), addresses=addresses)
        return 0
    text = f"# resolved from {path}\n{annotated(loaded, sources)}"
    output.result(args, text.rstrip("\n"), recipe=loaded.model_dump(mode="json"), path=path, origins=sources)
    return 0
