"""Show what a network's file holds, without building its tensors and executing nothing.

examples:
  python -m pipeline inspect edm2-img512-xs-2147483-0.135.pkl
  python -m pipeline inspect teacher.safetensors --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --json."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a pickle, torch file or safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Format, class, architecture, and a line for each tensor."""
    from math import prod

    from sida.teachers.formats import read_network

    found = read_network(args.file, str(args.file))
    shapes = found.shapes()
    if args.json:
        tensors = {name: [kind, *shape] for name, (kind, shape) in shapes.items()}
        told = {"format": found.format, "network": found.network, "problem": found.problem, **found.about}
        print(json.dumps({**told, "tensors": tensors}, indent=1))
        return 0
    print(f"{args.file}: {found.format}, {len(shapes)} tensors, {sum(prod(s) for _, s in shapes.values()):,} numbers")
    for name, value in found.about.items():
        print(f"{name}: {_one_line(value)}")
    print(f"network: {found.network or found.problem or 'the file does not say'}")
    for name, (kind, shape) in shapes.items():
        print(f"  {_one_line(name)}  {kind} {list(shape)}")
    return 0


def _one_line(value: object) -> str:
    """Names in a foreign file may hold anything; a terminal gets what can be printed."""
    return str(value).encode("unicode_escape").decode("ascii")[:1000]
