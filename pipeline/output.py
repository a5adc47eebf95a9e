"""A verb's output: its result on stdout, as text or as one JSON object; all else on stderr, as much as was asked for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sida.masking import without_secrets
from sida.printing import printing, unguarded

NO_JSON = {  # verbs without a result of their own, and why
    "compile": "prints a file for Kubeflow Pipelines or kubectl",
    "completion": "prints a shell's script",
    "logs": "prints a log, line by line",
    "rerun": "prints an object for kubectl",
    "runtime": "prints objects for kubectl",
    "step": "prints the address of each result",
    "ui": "serves pages until Ctrl-C",
}


def result(args: argparse.Namespace, text: str, /, **fields: Any) -> None:
    """Print a verb's result: ``text`` for people (empty when all is said), ``fields`` for programs."""
    if args.json or text:
        if args.json:  # masked by field: in the whole text a secret's end might take a quote along
            text = json.dumps(without_secrets(json.loads(json.dumps(fields, default=str))), indent=1)
        with printing():
            print(text, file=unguarded(sys.stdout) if args.json else sys.stdout, flush=True)


def part(args: argparse.Namespace, text: str) -> None:
    """Print a line of the result before its end; on stderr when the result will be a JSON object."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def note(args: argparse.Namespace, text: str) -> None:
    """Print a line on the way."""
    if not args.quiet:
        print(text, file=sys.stderr, flush=True)


def aligned(rows: Sequence[tuple[str, ...]], left: int = 1) -> list[str]:
    """Return aligned columns: the first ``left`` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(f"{cell:{'<' if at < left else '>'}{width}}" for at, (cell, width) in cells).rstrip())
    return lines
