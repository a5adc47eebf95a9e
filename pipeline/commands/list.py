"""List the recipes that can be run.

examples:
  python -m pipeline list
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Name and description of every recipe."""
    from sida import recipe

    names = recipe.names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:<{width}}  {' '.join(recipe.load(name).description.split())}")
    return 0
