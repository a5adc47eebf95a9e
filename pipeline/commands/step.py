"""Run one step of the pipeline alone, as containers do.

examples:
  sida step                    the steps
  sida step score --help       a step's inputs and outputs
  sida step score --flag ...   run it; prints the address of each result
"""

from __future__ import annotations

import argparse

from components.__main__ import main as step
from pipeline.arguments import argument

ARGUMENTS = (argument("arguments", "STEP --flag ...", "the step and its flags", nargs=argparse.REMAINDER),)


def main(args: argparse.Namespace) -> int:
    """Hand over to the steps' own command line."""
    return step(args.arguments)
