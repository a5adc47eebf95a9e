"""Write digests and revisions into a recipe's file, line by line, so that its comments and layout stay."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from sida import recipe as recipes
from sida.addresses import checked, redact
from sida.data.latents import newest_revision
from sida.data.patterns import is_pattern
from sida.data.places import check_packed
from sida.disk import replacing
from sida.errors import RecipeError, UserError
from sida.foreign.fetch import Check, fetch_file
from sida.recipe import Recipe
from sida.recipe.origins import origins
from sida.scoring.detector_file import check_detector
from sida.scoring.reference import check_images, check_statistics
from sida.teachers.formats import read_network

KEYS = {"address": "sha256", "vae": "revision"}  # what names something -> what pins it


@dataclass(frozen=True)
class Pin:
    """Section of the recipe, the address or repository it names, and its sha256 or revision as fetched."""

    field: str
    address: str
    value: str
    key: str = "sha256"


@dataclass(frozen=True)
class _Gap:
    """Section that names something without its digest or revision, and the lines to replace."""

    field: str
    key: str  # "sha256" of an address, or "revision" of a VAE's repository
    address: str
    lines: slice
    indent: str


def pin(path: Path, *, write: bool = True) -> list[Pin]:
    """Find the digest of every address in the file that has none beside it, and a VAE's revision; write all with one rename.

    Raises RecipeError when the file cannot be edited line by line (sections in braces), and what fetching raises.
    """
    recipe = recipes.load(_user_of(path) or str(path))  # a recipe with a mistake is not touched
    text = path.read_bytes().decode()
    gaps = list(_gaps(yaml.compose(text, Loader=yaml.SafeLoader), "", path))
    pins = [_pin(gap, path.parent, recipe) for gap in gaps]
    if pins and write:
        lines = text.splitlines(keepends=True)
        for gap, new in sorted(zip(gaps, pins, strict=True), key=lambda pair: -pair[0].lines.start):
            before, end = _split(lines[gap.lines.start - 1])
            end = end or _split(lines[0])[1] or "\n"
            lines[gap.lines.start - 1] = before + end
            remark = re.search(r"\s+#.*", _split("".join(lines[gap.lines]))[0])
            lines[gap.lines] = [f'{gap.indent}{new.key}: "{new.value}"{remark[0] if remark else ""}{end}']
        _replace(path, "".join(lines))
    return pins


def _pin(gap: _Gap, folder: Path, recipe: Recipe) -> Pin:
    if gap.key == "revision":
        return Pin(gap.field, gap.address, newest_revision(gap.address), gap.key)
    given = recipes.located(checked(gap.address, gap.field))
    address = given if "://" in given else (folder / given).resolve().as_uri()
    check = _check_of(gap.field, recipe)
    path, digest = fetch_file(address, gap.field, step="pin", check=check)
    if address.startswith("file://"):
        check(path)  # of which nothing is recorded
    return Pin(gap.field, redact(address), digest)


def _check_of(field: str, recipe: Recipe) -> Check:
    """Return what reads a section's file, so that nothing else is pinned."""
    second, evaluation = recipe.evaluation.second, recipe.evaluation
    measured = second if second is not None and field.startswith("evaluation.second.") else evaluation
    checks: dict[str, Check] = {
        "dataset": check_packed,
        "detector": lambda path: check_detector(path, measured.detector.kind),
        "reference": lambda path: check_statistics(path, measured),
        "precision_recall_reference": lambda path: check_images(path, recipe),
    }
    return checks.get(field.rpartition(".")[2], lambda path: read_network(path, f"{field} {path}"))


def pinned_elsewhere(path: Path, pins: list[Pin]) -> list[str]:
    """Return a line for each field of the resolved recipe that stays without its sha256 or revision: a base's, or a folder's."""
    if path.parent.name == "bases":
        return []
    sources, own = origins(str(path)), {f"{each.field}.{each.key}" for each in pins}
    recipe = recipes.load(str(path))
    missing = _unpinned(recipe.model_dump(mode="json"), "")
    data, folders = recipe.dataset, list[str]()
    if data.address and data.sha256 is None and _is_own_folder("dataset", "address", data.address, path.parent):
        told = f"{redact(data.address)} is no single file; prepare_data finds the digest over all, source_sha256"
        folders.append(f"not pinned: dataset.sha256: {told}")
    return folders + [
        f"not pinned: {field}, whose {name} is set in {sources[field.rpartition('.')[0] + '.' + name]}: pin that file too"
        for field, name in missing
        if field not in own
    ]


def _unpinned(section: dict[str, Any], field: str) -> Iterator[tuple[str, str]]:
    """Yield each field that is missing, with the name of the one beside it that needs it."""
    for name, key in KEYS.items():
        if (
            section.get(name)
            and section.get(key, "") is None
            and not _is_own_folder(field, name, section[name], Path())
        ):
            yield f"{field}.{key}", name
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _unpinned(value, f"{field}.{name}".lstrip("."))


def _user_of(path: Path) -> str:
    """Return a published recipe that extends the file, which may not be whole by itself; empty when there is none."""
    return next((name for name in recipes.names() if path in recipes.chain(name)), "")


def _gaps(node: Any, field: str, path: Path) -> Iterator[_Gap]:
    """Yield each mapping with an ``address`` and without a ``sha256``, or a ``vae`` without a ``revision``."""
    if not isinstance(node, yaml.MappingNode):
        return
    entries = {key.value: (key, value) for key, value in node.value}
    for name, key in KEYS.items():
        name_node, address = entries.get(name, (None, None))
        key_node, pinned = entries.get(key, (None, None))
        if _is_empty(address) or not _is_empty(pinned) or _is_own_folder(field, name, address.value, path.parent):
            continue
        if node.flow_style:
            raise RecipeError(
                f"{path}: {field} is written in braces: give {name} and {key} lines of their own, then pin again"
            )
        first = key_node.start_mark.line if key_node else address.end_mark.line + 1
        lines = slice(first, first + 1 if key_node else first)
        yield _Gap(field, key, address.value, lines, " " * name_node.start_mark.column)
    for name, (_, value) in entries.items():
        yield from _gaps(value, f"{field}.{name}".lstrip("."), path)


def _is_own_folder(field: str, name: str, address: str, base: Path) -> bool:
    """Return whether it is a VAE in a folder of this machine, which has no revision, or a folder or pattern of data's files."""
    if name == "vae":
        return address.startswith(("/", ".", "file://"))
    if field != "dataset" or ("://" in address and not address.startswith("file://")):
        return False
    path = Path(unquote(urlsplit(address).path)) if "://" in address else base / address
    return path.is_dir() or is_pattern(path)


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or node.tag == "tag:yaml.org,2002:null"


def _split(line: str) -> tuple[str, str]:
    """Return a line, and its end."""
    (whole,) = line.splitlines() or [""]
    return whole, line[len(whole) :]


def _replace(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays one
    try:
        with replacing(target) as draft:
            shutil.copymode(target, draft)
            draft.write_bytes(text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): copy the recipe to a folder of yours") from error
