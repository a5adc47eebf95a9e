"""Classes of images: from dataset.json, class folders, or ImageNet's synsets.

Nothing is lost silently, as NVIDIA's tools lose it: an image without a label, a label without an image and a class without images
are refused by name.
"""

from __future__ import annotations

import re
from contextlib import closing
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TypeGuard

import numpy as np

from sida.data.entries import Entry, Reader, Unreadable, is_hidden
from sida.errors import UserError
from sida.foreign.json_values import parse_json
from sida.printing import one_line

DATASET_JSON = "dataset.json"
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev")


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
            raise UserError(f"{place}: labels[{number}] is {one_line(str(pair), 60)!r}: expected [name, whole number]")
        name, label = pair
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{place}: {name} has two labels, {label_of[name]} and {label}: keep one")
    return label_of


def _by_name(names: list[str], labels: dict[str, int], place: str) -> np.ndarray:
    """Return int32 [N], a label for every image and an image for every label; a backslash in a label's name is Windows's slash."""
    if len(slashed := {name.replace("\\", "/"): label for name, label in labels.items()}) == len(labels):
        labels = slashed
    missing = [name for name in names if name not in labels]
    if labels and len(missing) == len(names):
        raise UserError(
            f"{place}: its names ({next(iter(labels))}) are not the images' ({names[0]}): write them as the images are called, "
            f"with / between folders"
        )
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


def class_folders(images: list[Entry]) -> tuple[str, ...]:
    """Return the first folders of the images, in the order of their classes: sorted as text."""
    return tuple(sorted({entry.name.partition("/")[0] for entry in images if "/" in entry.name}))


def from_folders(entries: list[Entry], images: list[Entry], classes: int, place: str) -> np.ndarray:
    """Return int32 [N]: the place of an image's first folder among all, sorted by name. Raises UserError if they do not match."""
    folders = class_folders(images)
    if len(folders) != classes:
        refuse_wrapped([entry.name for entry in images], place)
    _refuse_classes_in_splits(images, folders, place)
    refuse_splits(images, place)
    loose = [entry.name for entry in images if "/" not in entry.name]
    if loose:
        raise UserError(
            f"{place}: {loose[0]} lies beside the class folders: move it into one, or set dataset.classes to 0"
        )
    shown = [entry.name for entry in entries if not is_hidden(entry.name)]
    others = {name.partition("/")[0] for name in shown if "/" in name} - {*folders, "."}
    if others:
        first = min(others)
        empty = all(name.endswith("/") for name in shown if name.startswith(f"{first}/"))
        fault = "is empty" if empty else "holds no images"
        raise UserError(f"{place}: class folder {first} {fault}, so later classes would shift: fill or remove it")
    if len(folders) != classes:
        raise UserError(
            f"{place}: {len(folders)} class folders ({', '.join(folders[:3])} ...), dataset.classes says {classes}: correct one"
        )
    number_of = {folder: number for number, folder in enumerate(folders)}
    return np.array([number_of[entry.name.partition("/")[0]] for entry in images], np.int32)


def refuse_wrapped(names: list[str], place: str) -> None:
    """Raise UserError where all class folders, or dataset.json too, lie in one folder, as file managers pack."""
    shown = [name for name in names if not is_hidden(name)]
    tops = {name.partition("/")[0] for name in shown}
    if len(tops) != 1:
        return
    top = tops.pop()
    if f"{top}/{DATASET_JSON}" in shown or all(name.count("/") > 1 for name in shown):
        raise UserError(
            f"{place}: everything lies under {top}/: pack what is in {top}, or unpack it and name the folder {top} in "
            f"dataset.address"
        )


def _refuse_classes_in_splits(images: list[Entry], folders: tuple[str, ...], place: str) -> None:
    """Raise UserError where the folders are the parts of a data set, and the classes' folders lie in them."""
    inner: dict[str, set[str]] = {}
    for entry in images:
        first, *others = entry.name.split("/")
        inner.setdefault(first, set()).update(others[:1] if len(others) > 1 else ())
    splits = [folder for folder in folders if folder.lower() in SPLITS and inner[folder]]
    if len(splits) > 1 or splits == list(folders):
        raise UserError(
            f"{place}: class folders {', '.join(splits)} hold folders ({', '.join(sorted(inner[splits[0]])[:3])}), which look like "
            f"the classes: name the part to train on in dataset.address, such as {place}/{splits[0]}"
        )


def refuse_splits(images: list[Entry], place: str) -> None:
    """Raise UserError where all images lie in the parts of a data set, such as train and val, at the top or in one folder there."""
    paths = [entry.name.split("/")[:-1] for entry in images] or [[]]
    ends = zip(min(paths), max(paths), strict=False)
    outer = [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], ends)]  # folders that all lie in
    tops = sorted({"/".join(path[len(outer) : len(outer) + 1]) for path in paths})
    if len(tops) > 1 and all(top.lower() in SPLITS for top in tops):
        raise UserError(
            f"{place}: folders {', '.join(tops)} look like the parts of a data set: name the part to train on in "
            f"dataset.address, such as {'/'.join([place, *outer, tops[0]])}"
        )


def order_note(folders: tuple[str, ...]) -> str:
    """Return a sentence on class folders that are called by numbers which are not their classes'; empty for others."""
    if not all(re.fullmatch(r"[0-9]{1,9}", folder) for folder in folders):
        return ""
    other = next((number for number, folder in enumerate(folders) if int(folder) != number), None)
    if other is None:
        return ""
    return (
        f"class folders are sorted as text, so folder {folders[other]} is class {other}: where its number should be the class, "
        f"write as many digits in all ({0:0{len(str(len(folders) - 1))}d} ...) or add a dataset.json"
    )


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


def from_dataset_json(entries: list[Entry], images: list[Entry], place: str) -> np.ndarray | None:
    """Return int32 [N] by the dataset.json among the entries; None without one, or when its labels are null."""
    listing = next((entry for entry in entries if entry.name == DATASET_JSON), None)
    if listing is None:
        names = [entry.name for entry in entries]
        if any(name.endswith(f"/{DATASET_JSON}") for name in names):
            refuse_wrapped(names, place)
        return None
    place = f"{place}/{DATASET_JSON}"
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
