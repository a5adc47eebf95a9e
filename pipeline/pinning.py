"""Digests and revisions written into a recipe's file, line by line, so that its comments and layout stay."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sida import recipe as recipes
from sida.data.latents import newest_revision
from sida.errors import RecipeError, UserError
from sida.foreign.fetch import fetch_file
from sida.recipe.origins import origins
from sida.stores.base import redact


@dataclass(frozen=True)
class Pin:
    """A section of the recipe, the address or repository it names, and what was found there: its sha256 or its revision."""

    field: str
    address: str
    value: str
    key: str = "sha256"


@dataclass(frozen=True)
class _Place:
    """Where a section names something: the line after it, its indentation, and a line of the key that is empty."""

    field: str
    key: str  # what is to be written: "sha256" of an address, or "revision" of a VAE's repository
    address: str
    after: int
    indent: int
    empty: int | None


def pin(path: Path, *, write: bool = True) -> list[Pin]:
    """Find the digest of every address in the file that has none beside it, and a VAE's revision; write all with one rename.

    Raises RecipeError when the file cannot be edited line by line (sections in braces), and what fetching raises.
    """
    recipes.load(_user_of(path) or str(path))  # a recipe with a mistake is not touched
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    places = _places(yaml.compose(text, Loader=yaml.SafeLoader), "", path)
    pins = []
    for place in places:
        if place.key == "revision":
            pins.append(Pin(place.field, place.address, newest_revision(place.address), place.key))
            continue
        given = recipes.located(place.address)
        address = given if "://" in given else (path.parent / given).resolve().as_uri()
        _, digest = fetch_file(address, place.field, step="pin")
        pins.append(Pin(place.field, redact(address), digest))
    if not pins or not write:
        return pins
    for place, found in sorted(zip(places, pins, strict=True), key=lambda pair: -pair[0].after):
        line = f"{' ' * place.indent}{found.key}: {found.value!r}\n".replace("'", '"')
        if place.empty is not None:
            lines[place.empty] = line
        else:
            if not lines[place.after - 1].endswith("\n"):
                lines[place.after - 1] += "\n"
            lines.insert(place.after, line)
    _replace(path, "".join(lines))
    return pins


def pinned_elsewhere(path: Path, pins: list[Pin]) -> list[str]:
    """A line for each field of the resolved recipe that a base recipe leaves without its sha256 or revision."""
    if path.parent.name == "bases":
        return []
    lines, mine = origins(str(path)), {f"{found.field}.{found.key}" for found in pins}
    said = []
    for field, named in _unpinned(recipes.load(str(path)).model_dump(mode="json"), ""):
        if field not in mine:
            place = lines[f"{field.rpartition('.')[0]}.{named}"]
            said.append(f"not pinned: {field}, whose {named} is set in {place}: pin that file too")
    return said


def _unpinned(section: dict[str, Any], field: str) -> list[tuple[str, str]]:
    """(field that is missing, the one that it belongs to)"""
    found = []
    if section.get("address") and section.get("sha256", "") is None:
        found.append((f"{field}.sha256", "address"))
    if section.get("vae") and section.get("revision") is None and _is_repository(section["vae"]):
        found.append((f"{field}.revision", "vae"))
    for name, value in section.items():
        if isinstance(value, dict):
            found += _unpinned(value, f"{field}.{name}".lstrip("."))
    return found


def _user_of(path: Path) -> str:
    """A published recipe that extends the file, which may not be whole by itself; empty when there is none."""
    return next((name for name in recipes.names() if path in recipes.chain(name)), "")


def _places(node: Any, field: str, path: Path) -> list[_Place]:
    """Every mapping with an ``address`` and without a ``sha256``, or a ``vae`` without a ``revision``, in the file's order."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found: list[_Place] = []
    values = {key.value: (key, value) for key, value in node.value}
    for named, wanted in (("address", "sha256"), ("vae", "revision")):
        if named not in values or _is_null(values[named][1]):
            continue
        key, value = values[named]
        if named == "vae" and not _is_repository(value.value):
            continue
        empty = None
        if wanted in values and _is_null(values[wanted][1]):
            empty = values[wanted][0].start_mark.line
        if wanted not in values or empty is not None:
            if node.flow_style:
                raise RecipeError(
                    f"{path}: {field} is written in braces: give {named} and {wanted} lines of their own, then pin again"
                )
            after = value.end_mark.line + 1
            found.append(_Place(field, wanted, value.value, after, key.start_mark.column, empty))
    for name, (_, value) in values.items():
        found += _places(value, f"{field}.{name}".lstrip("."), path)
    return found


def _is_repository(vae: str) -> bool:
    """Not a folder of this machine."""
    return not vae.startswith(("/", ".", "file://"))


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
