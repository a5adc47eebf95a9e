"""Run one step of the pipeline alone.

    python -m components                    the steps
    python -m components STEP --help        a step's inputs and outputs
    python -m components STEP --flag ...    run it; prints the address of each result

This is what containers run, and what a single failed step is run again with.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sida import progress
from sida.errors import NotFound, SidaError, UserError
from sida.passed_on import Failure, failure_in

FOLDER = Path(__file__).resolve().parent
PROGRAM = "python -m components"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with status 2."""
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


class Ended(SidaError):
    """The step was one of many and passed a failure on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.item}: {failure.message}")
        self.exit_code = failure.exit_code


def step_names() -> list[str]:
    """One file, one step."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def summary(step: str) -> str:
    """The first line of a step's docstring, read without importing kfp."""
    tree = ast.parse((FOLDER / f"{step}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == step)
    return (ast.get_docstring(function) or "").partition("\n")[0]


def main(arguments: list[str]) -> int:
    """List, explain, or run; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _list_steps()
        return 0
    step, *flags = arguments
    if step not in (known := step_names()):
        near = difflib.get_close_matches(step, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"error: no step {step!r}: {hint}`{PROGRAM}` lists them", file=sys.stderr)
        return 2
    component = getattr(importlib.import_module(f"components.{step}"), step)
    args = _parser(step, component).parse_args(flags)
    progress.work_on(step)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{step}-") as folder:
            _run(component, vars(args), Path(folder))
    except SidaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        _track(args.run_id)
    return 0


def _track(run: str) -> None:
    """A step of a recorded run was run again: MLflow hears of it, if it can."""
    from sida.tracking.reconcile import track_quietly

    if run and (line := track_quietly(run)):
        print(line, file=sys.stderr)


def _list_steps() -> None:
    print(f"usage: {PROGRAM} STEP --flag ...\n\nRun one step of the pipeline alone.\n\nsteps:")
    names = step_names()
    width = max(map(len, names))
    for name in names:
        print(f"  {name:<{width}}  {summary(name)}")
    print(f"\n`{PROGRAM} STEP --help` explains a step.")


# -- a component's signature as a command line


def _is_artifact(kind: str) -> bool:
    return kind.startswith("system.")


def _is_list(flag: Any) -> bool:
    return bool(getattr(flag, "is_artifact_list", False))


def _parser(step: str, component: Any) -> Parser:
    """Parameters are typed flags, input artifacts take a manifest's address."""
    spec = component.component_spec
    outputs = [f"  {name:<22}{_output_help(component, name)}" for name in spec.outputs or {}]
    parser = Parser(
        prog=f"{PROGRAM} {step}",
        description=spec.description,
        epilog="results (addresses are printed on stdout, one a line):\n" + "\n".join(outputs),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, flag in (spec.inputs or {}).items():
        described = flag.description or ""
        if _is_artifact(flag.type):
            described += " Address of its manifest: file:///..., s3://... or a path."
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="ADDRESS" if _is_artifact(flag.type) else flag.type.upper(),
            type=str if _is_artifact(flag.type) else _TYPES[flag.type],
            nargs="+" if _is_list(flag) else None,
            action="extend" if _is_list(flag) else "store",
            required=not flag.optional,
            default=flag.default,
            help=described.replace("%", "%%"),
        )
    return parser


def _output_help(component: Any, name: str) -> str:
    """kfp keeps no description of outputs: read it where it was written."""
    lines = (component.python_func.__doc__ or "").splitlines()
    prefix = f"{name}:"
    return next((line.strip().removeprefix(prefix).strip() for line in lines if line.strip().startswith(prefix)), "")


def _truth(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


_TYPES: dict[str, Callable[[str], Any]] = {"String": str, "Integer": int, "Float": float, "Boolean": _truth}


# -- running


def _run(component: Any, values: dict[str, Any], folder: Path) -> None:
    spec = component.component_spec
    arguments = dict(values)
    for name, flag in (spec.inputs or {}).items():
        if _is_artifact(flag.type) and _is_list(flag):
            many = enumerate(values[name])
            arguments[name] = [_fetched(f"{name}-{number}", flag.type, one, folder) for number, one in many]
        elif _is_artifact(flag.type) and values[name] is not None:
            arguments[name] = _fetched(name, flag.type, values[name], folder)
    outputs = {name: _artifact(kind.type, name, folder / name) for name, kind in (spec.outputs or {}).items()}
    try:
        component.python_func(**arguments, **outputs)
    finally:  # a table is published, and then the generators that are missing in it end the step
        _tell(outputs)


def _tell(outputs: dict[str, Any]) -> None:
    """What there is of a step's results."""
    from kfp import dsl

    for name, output in outputs.items():
        if failure := failure_in(output.path):  # a pipeline goes on without it; who runs it alone wants to know
            raise Ended(failure)
        if address := _address(output):
            print(f"{name}\t{address}", flush=True)
        elif Path(output.path).exists() and not isinstance(output, dsl.HTML):  # a text for people, not a manifest
            print(Path(output.path).read_text(encoding="utf-8"), file=sys.stderr)


def _address(output: Any) -> str:
    """Where a result is published; empty for an output that is none. Metrics hold numbers alone: their manifest tells."""
    from kfp import dsl

    from sida.manifests import parse_manifest
    from sida.steps import manifest_key
    from sida.stores import open_store

    path = Path(output.path)
    if not isinstance(output, dsl.Metrics) or not path.exists():
        return str(output.metadata.get("address", ""))
    manifest = parse_manifest(path.read_bytes(), str(path))
    return open_store(manifest.about.store).address_of(manifest_key(manifest))


def _artifact(kind: str, name: str, path: Path, address: str = "") -> Any:
    """The kfp object that the component's function expects."""
    from kfp import dsl

    title = kind.removeprefix("system.").partition("@")[0]  # of system.Model@0.0.1
    return getattr(dsl, title)(name=name, uri=str(path), metadata={"address": address} if address else {})


def _fetched(name: str, kind: str, address: str, folder: Path) -> Any:
    """The manifest at an address as a local file."""
    from sida.stores import read_address

    path = Path(address)
    try:
        content = read_address(str(path.absolute()) if "://" not in address else address)
    except NotFound as error:
        raise UserError(f"--{name.replace('_', '-')} {address}: no such manifest: check the address") from error
    local = folder / f"input-{name}"
    local.write_bytes(content)
    return _artifact(kind, name, local, address)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main(sys.argv[1:]))
