"""Show what a network's file holds, without building its tensors and executing nothing.

Of a file with several networks, such as a training state, those; with --key the tensors of one.

examples:
  sida inspect edm2-img512-xs-2147483-0.135.pkl
  sida inspect teacher.safetensors --json
  sida inspect training-state-020480.pt --key G_ema_state
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import prod

from pipeline import output
from pipeline.arguments import argument, file_path
from sida.printing import one_line
from sida.teachers.choosing import Several
from sida.teachers.formats import read_network

ARGUMENTS = (
    argument("file", "FILE", "a pickle, torch file or safetensors", type=file_path),
    argument("--key", "NAME", "which of the file's networks (default: ema, or the only one)"),
)


def main(args: argparse.Namespace) -> int:
    """Print format, class, architecture, and a line for each tensor."""
    file = one_line(str(args.file), 1000)
    try:
        network = read_network(args.file, str(args.file), args.key)
    except Several as several:
        lines = [f"{file}: {len(several.networks)} networks", *_held(several.networks, several.optimizers)]
        output.result(args, "\n".join(lines), networks=several.networks, optimizers=several.optimizers)
        return 0
    shapes = network.shapes()
    numbers = sum(prod(shape) for _, shape in shapes.values())
    lines = [
        f"{file}: {network.format}, {len(shapes)} tensors, {numbers:,} numbers",
        *(f"{one_line(name, 100)}: {one_line(str(value), 1000)}" for name, value in network.about.items()),
        f"network: {one_line(str(network.network or network.problem or 'the file does not say'), 1000)}",
        *(_held(network.networks, network.optimizers) if len(network.networks) > 1 or network.optimizers else ()),
        *(f"  {one_line(name, 1000)}  {kind} {list(shape)}" for name, (kind, shape) in shapes.items()),
    ]
    tensors = {name: [kind, *shape] for name, (kind, shape) in shapes.items()}
    fields = {"format": network.format, "network": network.network, "problem": network.problem, **network.about}
    held = {"networks": network.networks, "optimizers": network.optimizers}
    output.result(args, "\n".join(lines), **{**fields, **held, "tensors": tensors})
    return 0


def _held(networks: Mapping[str, str], optimizers: Sequence[str]) -> list[str]:
    """Return a line for each network, and for each optimizer's state."""
    lines = [f"network {one_line(name, 100) or '(without a name)'}: {what}" for name, what in networks.items()]
    return lines + [f"optimizer {name}: its state is not read" for name in optimizers]
