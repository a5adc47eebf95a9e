"""Run one step of the pipeline alone.

    sida step                    the steps
    sida step STEP --help        a step's inputs and outputs
    sida step STEP --flag ...    run it; prints the address of each result

This is what containers run, and what a single failed step is run again with.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from components import around
from components.body import run_step
from components.interface import description_of, outputs_of, parameters_of
from components.local import LocalArtifact, fetched
from sida import progress
from sida.disk import check_folder
from sida.errors import SidaError
from sida.failures import failure_in
from sida.manifests import parse_manifest
from sida.origin import manifest_key
from sida.printing import guarded, one_line
from sida.records import pass_on
from sida.registry import STEPS
from sida.settings import check_places, settings
from sida.steps import Step
from sida.steps.log import kept
from sida.stores import open_store
from sida.tracking.reconcile import track_quietly

PROGRAM = "sida step"


class Parser(argparse.ArgumentParser):
    """Parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with status 2."""
        self.exit(2, f"{one_line(f'error: {message}; see `{self.prog} --help`')}\n")


def main(arguments: Sequence[str]) -> int:
    """List, explain, or run; return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _list_steps()
        return 0
    name, *flags = arguments
    if name in around.HELP:
        return _around(name, flags)
    if name not in STEPS:
        near = difflib.get_close_matches(name, [*STEPS, *around.HELP], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(one_line(f"error: no step {name!r}: {hint}`{PROGRAM}` lists them"), file=sys.stderr)
        return 2
    step = STEPS[name]
    args = parser_of(step).parse_args(flags)
    progress.work_on(name)
    try:
        check_places()
        if args.outputs is not None:
            check_folder(args.outputs, "--outputs")
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            _run(step, vars(args), Path(folder))
    except SidaError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    finally:
        # Of a recorded run whose engine does not do it at the end.
        if args.run_id and args.outputs is None and (line := track_quietly(args.run_id)):
            print(line, file=sys.stderr)
    return 0


def _around(name: str, flags: Sequence[str]) -> int:
    """Do what an engine asks for before or after the steps."""
    parser = Parser(prog=f"{PROGRAM} {name}", description=around.HELP[name], allow_abbrev=False)
    call = around.arguments_of(name, parser)
    try:
        args = parser.parse_args(flags)
        with kept(args.run_id, name):
            call(args)
    except SidaError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    return 0


def _list_steps() -> None:
    print(f"usage: {PROGRAM} STEP --flag ...\n\nRun one step of the pipeline alone.\n\nsteps:")
    width = max(map(len, STEPS))
    for name, step in sorted(STEPS.items()):
        print(f"  {name:<{width}}  {description_of(step).partition(chr(10))[0]}")
    print("\naround them, for workflow engines:")
    for name, text in around.HELP.items():
        print(f"  {name:<{width}}  {text}")
    print(f"\n`{PROGRAM} STEP --help` explains a step.")


def parser_of(step: Step[Any]) -> Parser:
    """Return the command line of a step: parameters are flags, manifests are given by address."""
    results = [f"  {output.name:<22}{output.text}" for output in outputs_of(step)]
    parser = Parser(
        prog=f"{PROGRAM} {step.name}",
        description=description_of(step),
        epilog="results (addresses are printed on stdout, one a line):\n" + "\n".join(results),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for parameter in parameters_of(step):
        address = bool(parameter.artifact)
        text = parameter.text + (" Address of its manifest: file:///..., s3://... or a path." if address else "")
        parser.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            dest=parameter.name,
            metavar="ADDRESS" if address else {"text": "STRING", "truth": "BOOLEAN"}[parameter.kind],
            type=_truth if parameter.kind == "truth" else str,
            nargs="+" if parameter.kind == "manifests" else None,
            action="extend" if parameter.kind == "manifests" else "store",
            required=not parameter.optional,
            default=parameter.default,
            help=text.replace("%", "%%"),
        )
    parser.add_argument(
        "--outputs",
        metavar="FOLDER",
        type=Path,
        help="Write each address into a file of the result's name there too, for workflow engines.",
    )
    return parser


def _truth(text: str) -> bool:
    """Return the value of ``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


# -- running


def _run(step: Step[Any], values: dict[str, Any], folder: Path) -> None:
    given = dict(values)
    for parameter in parameters_of(step):
        value = values[parameter.name]
        if parameter.kind == "manifests":
            given[parameter.name] = [fetched(parameter, one, folder, number) for number, one in enumerate(value)]
        elif parameter.kind == "manifest" and value is not None:
            given[parameter.name] = fetched(parameter, value, folder)
    outputs = {
        output.name: LocalArtifact(str(folder / output.name), f"system.{output.artifact}")
        for output in outputs_of(step)
    }
    try:
        run_step(step.name, given | outputs)
    finally:  # a table is published, and then the generators that are missing in it end the step
        _tell(outputs, values["outputs"], values["run_id"])


def _tell(outputs: dict[str, LocalArtifact], folder: Path | None, run_id: str) -> None:
    """Print a step's results: addresses on stdout, texts for people on stderr; write the addresses into ``folder``."""
    for name, output in outputs.items():
        if failure := failure_in(output.path):
            if folder is None:  # whoever runs the step alone wants to know
                error = SidaError(f"{failure.item}: {failure.message}")
                error.exit_code = failure.exit_code
                raise error
            address = pass_on(run_id, failure)  # the pipeline goes on without it
        else:
            address = _address(output)
        if address:
            print(f"{name}\t{address}", flush=True)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(address, encoding="utf-8")
        elif Path(output.path).exists() and output.schema_title != "system.HTML":
            print(Path(output.path).read_text(encoding="utf-8"), file=sys.stderr)


def _address(output: LocalArtifact) -> str:
    """Return a result's address; empty if it is not published. Metrics hold only numbers: the address is in their manifest."""
    path = Path(output.path)
    if output.schema_title != "system.Metrics" or not path.exists():
        return str(output.metadata.get("address", ""))
    manifest = parse_manifest(path.read_bytes(), str(path))
    return open_store(settings().store).address_of(manifest_key(manifest))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with guarded():
        sys.exit(main(sys.argv[1:]))
