"""Show what a network's file holds, without building its tensors and executing nothing.

examples:
  sida inspect edm2-img512-xs-2147483-0.135.pkl
  sida inspect teacher.safetensors --json
"""

from __future__ import annotations

import argparse
from math import prod

from pipeline import output
from pipeline.arguments import argument, file_path
from sida.teachers.formats import read_network

ARGUMENTS = (argument("file", "FILE", "a pickle, torch file or safetensors", type=file_path),)


def main(args: argparse.Namespace) -> int:
    """Print format, class, architecture, and a line for each tensor."""
    network = read_network(args.file, str(args.file))
    shapes = network.shapes()
    lines = [
        f"{_one_line(args.file)}: {network.format}, {len(shapes)} tensors, {sum(prod(s) for _, s in shapes.values()):,} numbers",
        *(f"{name}: {_one_line(value)}" for name, value in network.about.items()),
        f"network: {_one_line(network.network or network.problem or 'the file does not say')}",
        *(f"  {_one_line(name)}  {kind} {list(shape)}" for name, (kind, shape) in shapes.items()),
    ]
    tensors = {name: [kind, *shape] for name, (kind, shape) in shapes.items()}
    fields = {"format": network.format, "network": network.network, "problem": network.problem, **network.about}
    output.result(args, "\n".join(lines), **{**fields, "tensors": tensors})
    return 0


def _one_line(value: object) -> str:
    """Return a name fit for a terminal: names in a foreign file may hold any character."""
    return str(value).encode("unicode_escape").decode("ascii")[:1000]
