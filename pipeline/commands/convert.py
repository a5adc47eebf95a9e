"""Convert a published network to safetensors and JSON, executing nothing that it holds.

Reads the pickles of NVIDIA (EDM, EDM2) and of SiDA's authors, torch files (weights only) and safetensors. The weights come with the
architecture, and the JSON beside them with the constructor's arguments, where the file came from, digests and licence. Of a file
with several networks, as a training state of SiDA's authors, --key chooses one (`inspect` lists them).

examples:
  sida convert edm-cifar10-32x32-uncond-vp.pkl --output teachers --licence "CC BY-NC-SA 4.0"
  sida convert my-weights.pt --output teachers --recipe ./mine.yaml
  sida convert training-state-020480.pt --key G_ema_state --output starts --recipe cifar10-uncond-sid
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pipeline import output
from pipeline.arguments import argument, file_path, output_folder
from sida.errors import UserError
from sida.masking import secret_in
from sida.printing import one_line
from sida.recipe import load
from sida.teachers.convert import convert
from sida.teachers.formats import read_network

ARGUMENTS = (
    argument("file", "FILE", "the network as published", type=file_path),
    argument("--output", "DIR", "folder for the two files", type=output_folder, required=True),
    argument("--key", "NAME", "which of the file's networks (default: ema, or the only one)"),
    argument("--recipe", "RECIPE", "takes architecture and licence from its teacher section"),
    argument("--licence", "TEXT", "licence of the weights, recorded in the files"),
)


def main(args: argparse.Namespace) -> int:
    """Convert, then name the files that were written."""
    if secret := secret_in(args.licence or ""):
        raise UserError(f"--licence looks like a secret ({secret}), which the files would tell everybody: leave it out")
    teacher = load(args.recipe).teacher if args.recipe else None
    network = None
    if teacher:
        names = read_network(args.file, str(args.file), args.key).tensors
        headless = not any("logvar_" in name for name in names)  # EDM2's generators
        network = (teacher.network.of_generator() if headless else teacher.network).model_dump(mode="json")
    converted = convert(
        args.file,
        args.output,
        key=args.key,
        network=network,
        licence=args.licence or (teacher.licence if teacher else ""),
        remedy="choose an --output with room that can be written",
    )
    architecture = (
        f"{converted.network['architecture']}, {converted.network['channels']} x {converted.network['resolution']}^2"
    )
    lines = [
        f"{converted.weights}: {architecture}, {converted.tensors} tensors, from sha256 {converted.source_sha256}",
        f"{converted.facts}: arguments, origin, digests, licence",
    ]
    if converted.key:
        lines.append(f"{one_line(converted.key, 100)}: of the file's networks, the one that was taken")
    if converted.removed_prefix:
        lines.append(f"{one_line(converted.removed_prefix, 100)!r}: a wrapper's prefix, taken off every name")
    if converted.left_out:
        lines.append(
            f"left out: {', '.join(converted.left_out)}: a training that starts here has fresh moments of Adam"
        )
    output.result(args, "\n".join(lines), **asdict(converted))
    return 0
