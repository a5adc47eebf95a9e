"""A verb's output: its result on stdout, as text or as one JSON object; all else on stderr, as much as was asked for."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

NO_JSON = {  # verbs without a result of their own, and why
    "compile": "prints a file for Kubeflow Pipelines or kubectl",
    "completion": "prints a shell's script",
    "logs": "prints a log, line by line",
    "rerun": "prints an object for kubectl",
    "runtime": "prints objects for kubectl",
    "step": "prints the address of each result",
    "ui": "serves pages until Ctrl-C",
}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")


def add_amount(parser: argparse.ArgumentParser, *, logs: bool = True) -> None:
    """Add --quiet and, if there are ``logs`` to show, --verbose."""
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("-q", "--quiet", action="store_true", help="only the result, warnings and errors")
    if logs:
        amount.add_argument("-v", "--verbose", action="store_true", help="the steps' log lines too, as they come")


def result(args: argparse.Namespace, text: str, /, **fields: Any) -> None:
    """Print a verb's result: ``text`` for people (empty when all is said), ``fields`` for programs."""
    if args.json or text:
        print(json.dumps(fields, indent=1, default=str) if args.json else text, flush=True)


def part(args: argparse.Namespace, text: str) -> None:
    """Print a line of the result before its end; on stderr when the result will be a JSON object."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def note(args: argparse.Namespace, text: str) -> None:
    """Print a line on the way."""
    if not args.quiet:
        print(text, file=sys.stderr, flush=True)
