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
from sida.printing import one_line
from sida.teachers.formats import read_network

ARGUMENTS = (argument("file", "FILE", "a pickle, torch file or safetensors", type=file_path),)


def main(args: argparse.Namespace) -> int:
    """Print format, class, architecture, and a line for each tensor."""
    network = read_network(args.file, str(args.file))
    shapes = network.shapes()
    numbers = sum(prod(shape) for _, shape in shapes.values())
    lines = [
        f"{one_line(str(args.file), 1000)}: {network.format}, {len(shapes)} tensors, {numbers:,} numbers",
        *(f"{one_line(name, 100)}: {one_line(str(value), 1000)}" for name, value in network.about.items()),
        f"network: {one_line(str(network.network or network.problem or 'the file does not say'), 1000)}",
        *(f"  {one_line(name, 1000)}  {kind} {list(shape)}" for name, (kind, shape) in shapes.items()),
    ]
    tensors = {name: [kind, *shape] for name, (kind, shape) in shapes.items()}
    fields = {"format": network.format, "network": network.network, "problem": network.problem, **network.about}
    output.result(args, "\n".join(lines), **{**fields, "tensors": tensors})
    return 0
