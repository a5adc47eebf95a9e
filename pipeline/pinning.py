"""Digests written into a recipe's file, line by line, so that its comments and layout stay."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sida import recipe as recipes
from sida.errors import RecipeError, UserError
from sida.foreign.fetch import fetch_file
from sida.stores.base import redact


@dataclass(frozen=True)
class Pin:
    """A field of the recipe, the address it names, and the digest found there."""

    field: str
    address: str
    sha256: str


@dataclass(frozen=True)
class _Place:
    """Where a section names an address: the line after it, its indentation, and a line ``sha256:`` that is empty."""

    field: str
    address: str
    after: int
    indent: int
    empty: int | None


def pin(path: Path, *, write: bool = True) -> list[Pin]:
    """Find the digest of every address in the file that has none beside it, and write them all with one rename.

    Raises RecipeError when the file cannot be edited line by line (sections in braces), and what fetching raises.
    """
    recipes.load(str(path))  # a recipe with a mistake is not touched
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    places = _places(yaml.compose(text, Loader=yaml.SafeLoader), "", path)
    pins = []
    for place in places:
        address = place.address if "://" in place.address else (path.parent / place.address).resolve().as_uri()
        _, digest = fetch_file(address, place.field, step="pin")
        pins.append(Pin(place.field, redact(address), digest))
    if not pins or not write:
        return pins
    for place, found in sorted(zip(places, pins, strict=True), key=lambda pair: -pair[0].after):
        line = f"{' ' * place.indent}sha256: {found.sha256!r}\n".replace("'", '"')
        if place.empty is not None:
            lines[place.empty] = line
        else:
            if not lines[place.after - 1].endswith("\n"):
                lines[place.after - 1] += "\n"
            lines.insert(place.after, line)
    _replace(path, "".join(lines))
    return pins


def _places(node: Any, field: str, path: Path) -> list[_Place]:
    """Every mapping with an ``address`` and without a ``sha256``, in the order of the file."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found: list[_Place] = []
    values = {key.value: (key, value) for key, value in node.value}
    if "address" in values and not _is_null(values["address"][1]):
        key, value = values["address"]
        empty = None
        if "sha256" in values and _is_null(values["sha256"][1]):
            empty = values["sha256"][0].start_mark.line
        if "sha256" not in values or empty is not None:
            if node.flow_style:
                raise RecipeError(
                    f"{path}: {field} is written in braces: give address and sha256 lines of their own, then pin again"
                )
            after = value.end_mark.line + 1
            found.append(_Place(field, value.value, after, key.start_mark.column, empty))
    for name, (_, value) in values.items():
        found += _places(value, f"{field}.{name}".lstrip("."), path)
    return found


def _is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}): copy the recipe to a folder of yours") from error
