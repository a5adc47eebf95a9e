"""How a verb declares its arguments, and those that several verbs take. A verb's ``ARGUMENTS`` are added in their order."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.addresses import local_path
from sida.disk import check_file, check_folder
from sida.errors import UserError
from sida.printing import one_line

MOST = 2**48  # of anything that is counted: as in recipes
MACHINES = 2**16
LEAST_SHARE = 1e-4
LONGEST = 1e7  # minutes: nineteen years

Argument = Callable[[argparse._ActionsContainer], object]  # adds itself to a parser, or to a group of one


def argument(name: str, metavar: str | None, text: str, *, may_be_empty: bool = False, **options: Any) -> Argument:
    """Return an argument with a value, shown as ``metavar`` or its choices; ``options`` are argparse's.

    An empty value, as an unset variable of a shell leaves it, is refused: it would silently mean the default.
    """
    if not may_be_empty:
        options["type"] = _given(options.get("type", str))
    return lambda parser: parser.add_argument(name, metavar=metavar, help=text, **options)


def _given(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_given(text: str) -> Any:
        if not text.strip():
            raise argparse.ArgumentTypeError("is empty: give a value, or leave it out")
        return read(text)

    return read_given


def flag(name: str, text: str, *short: str) -> Argument:
    """Return an option without a value."""
    return lambda parser: parser.add_argument(*short, name, action="store_true", help=text)


def one_of(*arguments: Argument, required: bool = False) -> Argument:
    """Return arguments of which one at most may be given."""

    def add(parser: argparse._ActionsContainer) -> None:
        group = parser.add_mutually_exclusive_group(required=required)
        for each in arguments:
            each(group)

    return add


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """Return the type of whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limit = "or more" if value < least else f"to {most:,}"
            raise argparse.ArgumentTypeError(f"{one_line(text, 40)!r}: give a whole number, {least} {limit}")
        return value

    return read


def share(text: str) -> float:
    """Return a share, above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LEAST_SHARE <= value <= 1:  # nan neither
        raise argparse.ArgumentTypeError(
            f"{one_line(text, 40)!r}: give a share from {LEAST_SHARE:g} to 1, such as 0.35"
        )
    return value


def positive(text: str) -> float:
    """Return a number above 0, and not infinite."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LEAST_SHARE <= value <= MOST:  # nan neither
        raise argparse.ArgumentTypeError(f"{one_line(text, 40)!r}: give a number from {LEAST_SHARE:g}, such as 50")
    return value


def file_path(text: str) -> Path:
    """Return the path of a file or folder here, which no other address may be."""
    try:
        return local_path(text, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def output_file(text: str) -> Path:
    """Return the path of a file to be written; refused at once where it cannot be."""
    return _tried(text, check_file)


def output_folder(text: str) -> Path:
    """Return the path of a folder to write into, which need not exist; refused at once where that cannot be."""
    return _tried(text, check_folder)


def _tried(text: str, check: Callable[[Path, str], None]) -> Path:
    path = file_path(text)
    try:
        check(path, "")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from error
    return path


def amount_of(unit: str) -> Callable[[str], float]:
    """Return the type of numbers of seconds, minutes, ..., from 0 on, as many as can be waited for."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= LONGEST:
            limit = f", at most {LONGEST:g}" if value > LONGEST else ""
            raise argparse.ArgumentTypeError(f"expected a number of {unit}{limit}, found {one_line(text, 40)!r}")
        return value

    return read


RECIPE_TEXT = "name of a recipe (see `list`), or path of a YAML file"
RECIPE = argument("recipe", "RECIPE", RECIPE_TEXT)
PROFILE_TEXT = "the cluster: name of a file in profiles/, or path of a YAML file"
PROFILE = argument("--profile", "PROFILE", PROFILE_TEXT, required=True)
ANY_PROFILE = argument("--profile", "PROFILE", PROFILE_TEXT)
GENERATOR = argument("generator", "GENERATOR", "a file, or the address of a manifest")
RECIPE_OF_FILE = argument("--recipe", "RECIPE", "of a file that does not say its network itself")
STORE = argument(
    "--store",
    "ADDRESS",
    "where results are kept: file:///folder, a folder, or s3://bucket/prefix (default: SIDA_STORE, or ./runs/store)",
)
WAIT = argument(
    "--wait",
    "SECONDS",
    "how long to wait for a result that another run is making (default 0: name that run, and stop)",
    type=amount_of("seconds"),
)
FORCE = argument(
    "--force",
    "STEP",
    "make a new attempt of STEP and everything after it (may be given again)",
    action="append",
    default=[],
)
REPEAT = argument("--repeat", "TEXT", "another text measures the scores anew (default: reuse)")
TRUST = argument(
    "--trust-detector",
    "SHA256",
    "run a TorchScript detector of this digest: such a file holds code, and only the published Inception runs by itself",
    action="append",
    default=[],
)
PIPELINE = argument(
    "--pipeline",
    "NAME",
    "which pipeline: reproduce (default), the whole DAG; or score_published, the generators released for the benchmark",
    default="reproduce",
)
ALLOW_TAGS = flag("--allow-tags", "take images without a digest, with a warning: they can change under a run")
QUIET = flag("--quiet", "only the result, warnings and errors", "-q")
AMOUNT = one_of(QUIET, flag("--verbose", "the steps' log lines too, as they come", "-v"))
JSON = flag(
    "--json", "print the result as one JSON object on stdout"
)  # of every verb that output.NO_JSON does not name
