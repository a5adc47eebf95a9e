"""Classes of images: from dataset.json, class folders, or ImageNet's synsets.

Nothing is lost silently, as NVIDIA's tools lose it: an image without a label, a label without an image and a class without images
are refused by name.
"""

from __future__ import annotations

import re
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TypeGuard

import numpy as np

from sida.data.entries import Entry, Reader, Unreadable
from sida.errors import UserError
from sida.foreign.json_values import parse_json

DATASET_JSON = "dataset.json"


def is_label(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number that int32 holds."""
    return type(value) is int and -(2**31) <= value < 2**31


def from_json(content: bytes, place: str) -> dict[str, int] | None:
    """Return name -> label of a dataset.json as EDM writes it, {"labels": [[name, label], ...]}; None if labels are null."""
    try:
        labels = parse_json(content)["labels"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{place}: not a dataset.json: expected {{"labels": [["name", 0], ...]}}') from error
    if labels is None:
        return None
    if not isinstance(labels, list):
        raise UserError(f"{place}: labels must be a list of [name, label] pairs or null")
    label_of: dict[str, int] = {}
    for number, pair in enumerate(labels):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and is_label(pair[1])):
            raise UserError(f"{place}: labels[{number}] is {str(pair)[:60]!r}: expected [name, whole number]")
        name, label = pair
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{place}: {name} has two labels, {label_of[name]} and {label}: keep one")
    return label_of


def _by_name(names: list[str], labels: dict[str, int], place: str) -> np.ndarray:
    """Return int32 [N], a label for every image and an image for every label."""
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(
            f"{place}: {len(missing)} of {len(names)} images have no label, e.g. {missing[0]}: label all, or none"
        )
    if len(labels) > len(names):
        expected = set(names)
        absent = next(name for name in labels if name not in expected)
        raise UserError(
            f"{place}: {len(labels) - len(names)} labels are for images that are not there, e.g. {absent}: data is missing"
        )
    return np.array([labels[name] for name in names], np.int32)


def from_folders(entries: list[Entry], images: list[Entry], classes: int, place: str) -> np.ndarray:
    """Return int32 [N]: the place of an image's first folder among all, sorted by name. Raises UserError if they do not match."""
    folders = sorted({entry.name.partition("/")[0] for entry in images if "/" in entry.name})
    loose = [entry.name for entry in images if "/" not in entry.name]
    if loose:
        raise UserError(
            f"{place}: {loose[0]} lies beside the class folders: move it into one, or set dataset.classes to 0"
        )
    others = {entry.name.partition("/")[0] for entry in entries if "/" in entry.name} - {*folders, "."}
    if others:
        first = min(others)
        empty = all(entry.name.endswith("/") for entry in entries if entry.name.startswith(f"{first}/"))
        found = "is empty" if empty else "holds no images"
        raise UserError(f"{place}: class folder {first} {found}, so later classes would shift: fill or remove it")
    if len(folders) != classes:
        raise UserError(
            f"{place}: {len(folders)} class folders ({', '.join(folders[:3])} ...), dataset.classes says {classes}: correct one"
        )
    number_of = {folder: number for number, folder in enumerate(folders)}
    return np.array([number_of[entry.name.partition("/")[0]] for entry in images], np.int32)


@cache
def synsets() -> tuple[str, ...]:
    """Return ImageNet-1k's classes in their published order, which is that of their names."""
    return tuple((Path(__file__).parent / "imagenet_synsets.txt").read_text().split())


def check_synsets(folders: list[str], classes: int, place: str) -> None:
    """Raise UserError unless the class folders are ImageNet's: all of them, or as many as ``classes`` says."""
    strange = [folder for folder in folders if folder not in set(synsets())]
    if strange:
        looks = "a synset, but not one" if re.fullmatch(r"n\d{8}", strange[0]) else "not"
        raise UserError(
            f"{place}: folder {strange[0]} is {looks} of ImageNet-1k's 1,000: remove it, or use source folder"
        )
    if len(folders) != classes:
        missing = next((name for name in synsets() if name not in set(folders)), "none")
        raise UserError(
            f"{place}: {len(folders)} synsets, dataset.classes says {classes} (first absent: {missing}): fetch the rest"
        )


def from_dataset_json(entries: list[Entry], images: list[Entry], source: str) -> np.ndarray | None:
    """Return int32 [N] by the dataset.json among a source's entries; None without one, or when its labels are null."""
    listing = next((entry for entry in entries if entry.name == DATASET_JSON), None)
    if listing is None:
        return None
    place = f"{source}/{DATASET_JSON}"
    try:
        with closing(Reader()) as reader:
            labels = from_json(reader.read(listing), place)
    except Unreadable as error:
        raise UserError(f"{place} {error}: fetch the data set again") from error
    return None if labels is None else _by_name([entry.name for entry in images], labels, place)


def check_range(labels: np.ndarray, classes: int, place: str) -> None:
    """Raise UserError for labels that are not 0 to classes - 1."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"{place}: has labels {labels.min()} to {labels.max()}, the recipe says {classes} classes: correct dataset.classes"
        )
