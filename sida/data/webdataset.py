"""WebDataset tars: samples are neighboring members that share a name up to its first dot; read here, written by ``export``.

As the library webdataset 1.0 reads them: what follows the first dot counts in small letters, and members called ``__NAME__`` or in
a folder of such a name are its own.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import numpy as np

from sida.data.decode import is_image
from sida.data.entries import Entry, Reader, Unreadable, is_hidden
from sida.data.folders import GZIPS
from sida.data.labels import SPLITS, is_label
from sida.data.patterns import expand, pattern_of
from sida.data.tars import tar_entries, unpacked
from sida.errors import UserError
from sida.foreign.json_values import parse_json
from sida.printing import one_line

LABELS = (".cls", ".json")  # endings of a sample's label; the first is preferred
_OWN = re.compile(r"__[^/]*__(/|$)")  # the library's own members, at the top


def webdataset_entries(path: Path, scratch: Path, *, labeled: bool) -> tuple[list[Entry], np.ndarray | None, int]:
    """Return images in the order of the tars and their members, labels int32 [N] from ``.cls`` or ``.json``, other files.

    Raises UserError naming the tar for a sample with two images or, when ``labeled``, without a label.
    """
    tars = _tars_in(path) if path.is_dir() else expand(path)
    images: list[Entry] = []
    labels: list[int] = []
    others = 0
    with closing(Reader()) as reader:
        for tar in tars:
            samples: dict[str, list[Entry]] = {}
            _refuse_index(tar)
            for entry in tar_entries(unpacked(tar, scratch), tar):
                if entry.name.endswith("/"):
                    continue
                if is_hidden(entry.name) or _OWN.match(entry.name):
                    others += 1
                else:
                    samples.setdefault(_key(entry.name), []).append(entry)
            for key, members in samples.items():
                pictures = [entry for entry in members if is_image(entry.name)]
                if len(pictures) > 1:
                    raise UserError(f"{tar}: sample {key} has {len(pictures)} images: keep one")
                if not pictures:
                    others += len(members)
                    continue
                if labeled:
                    labels.append(_label(tar, key, members, reader))
                others += sum(not entry.name.lower().endswith(LABELS) for entry in members) - 1
                images.append(pictures[0])
    return images, np.array(labels, np.int32) if labeled else None, others


def _refuse_index(tar: Path) -> None:
    """Raise UserError for JSON, as wids lists tars in."""
    with tar.open("rb") as file:
        if file.read(64).lstrip().startswith((b"{", b"[")):
            raise UserError(
                f"{tar}: is JSON, perhaps an index of tars: name their folder, or a pattern such as train-{{000..100}}.tar"
            )


def _tars_in(folder: Path) -> list[Path]:
    """Return the tars of a folder, by name. Raises UserError where there are none, or of several parts, such as train and val."""
    found = [child for child in folder.iterdir() if child.name.lower().endswith((".tar", *GZIPS))]
    tars = sorted(child for child in found if not is_hidden(child.name))
    if not tars:
        raise UserError(f"{folder}: no .tar in it: correct dataset.address")
    parts: dict[str, list[str]] = {}
    for tar in tars:
        part = next((word for word in re.split(r"[^a-z]+", tar.name.lower()) if word in SPLITS), "")
        parts.setdefault(part, []).append(tar.name)
    if len(parts) > 1:
        first = parts.get("train") or next(names for part, names in parts.items() if part)
        raise UserError(
            f"{folder}: holds tars of several parts, such as {' and '.join(names[0] for names in parts.values())}: name those to "
            f"train on in dataset.address, {folder / pattern_of(first)}"
        )
    return tars


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _label(tar: Path, key: str, members: list[Entry], reader: Reader) -> int:
    given = next(
        filter(None, ([one for one in members if one.name.lower().endswith(ending)] for ending in LABELS)), None
    )
    if given is None:
        raise UserError(f"{tar}: sample {key} has no .cls or .json label: add them, or set dataset.classes to 0")
    if len(given) > 1:
        raise UserError(f"{tar}: sample {key} has {len(given)} labels, {given[0].name} and {given[1].name}: keep one")
    entry = given[0]
    try:
        value = parse_json(reader.read(entry))
    except (ValueError, Unreadable) as error:
        raise UserError(f"{tar}: {entry.name} is no label ({error}): expected a whole number") from error
    value = value.get("label", value.get("cls")) if isinstance(value, dict) else value
    if not is_label(value):
        raise UserError(f"{tar}: {entry.name} holds {one_line(str(value), 40)!r}: expected a whole number as label")
    return value
