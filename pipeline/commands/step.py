"""Run one step of the pipeline alone, as containers do.

examples:
  sida step                    the steps
  sida step score --help       a step's inputs and outputs
  sida step score --flag ...   run it; prints the address of each result
"""

from __future__ import annotations

import argparse

OWN_HELP = True  # of the step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add STEP --flag ..."""
    parser.add_argument("arguments", metavar="STEP --flag ...", nargs=argparse.REMAINDER, help="the step and its flags")


def main(args: argparse.Namespace) -> int:
    """Hand over to the steps' own command line."""
    from components.__main__ import main as step

    return step(args.arguments)
