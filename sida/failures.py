"""Failures that one of many steps leaves in place of its result: the others go on, and the end of the run reports them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sida.manifests import Part


class Failure(Part):
    """Failure of a step for one item, with the reason: one line for the user."""

    kind: Literal["passed_on"] = "passed_on"
    item: str  # name of the recipe
    recipe: str  # its name, or address in the store
    step: str
    message: str
    exit_code: int  # 2: the user can mend it

    def write(self, path: str | Path) -> None:
        """Write the failure in place of the result."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.model_dump_json(indent=1) + "\n")


def failure_in(path: str | Path) -> Failure | None:
    """Return the failure in the file where a manifest should be; None for anything else, also for no file."""
    try:
        return parse_failure(Path(path).read_bytes())
    except OSError:
        return None


def parse_failure(content: bytes) -> Failure | None:
    """Return the failure in a file's bytes; None for anything else."""
    try:
        return Failure.model_validate_json(content)
    except ValidationError:
        return None


def first_failure(values: Iterable[object]) -> Failure | None:
    """Return the first failure among a step's arguments."""
    paths = (value for value in values if isinstance(value, str) and value.startswith("/"))
    return next(filter(None, map(failure_in, paths)), None)
