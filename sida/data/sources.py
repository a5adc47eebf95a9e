"""Turn a recipe's dataset section into a list of images with labels, in the published order. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sida.data import labels as labelling
from sida.data.cifar10 import load_cifar10
from sida.data.decode import is_image
from sida.data.digits import load_digits_images
from sida.data.entries import Entry, is_hidden
from sida.data.folders import entries_of
from sida.data.parquet import ORDER_NOTE, parquet_entries, parquet_files
from sida.data.patches import load_patches
from sida.data.places import path_of
from sida.data.tars import tar_entries
from sida.data.webdataset import webdataset_entries
from sida.errors import UserError
from sida.foreign.boundary import reading
from sida.foreign.json_values import TEXT_BYTES
from sida.recipe import Dataset

LATENT_ENDING = ".npy"  # EDM2's own encoder's files, [8, h, w]


@dataclass(frozen=True)
class Source:
    """Images as files to be decoded (``entries``), as pixels (``images`` uint8 [N, C, H, W]), or labels alone (int32 [N]).

    ``ignored`` counts files that are no images.
    """

    place: str  # for messages
    labels: np.ndarray | None
    entries: Sequence[Entry] = ()
    images: np.ndarray | None = None
    ignored: int = 0
    ignored_examples: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()  # class folders, or what a file calls its classes; in the order of their labels
    notes: tuple[str, ...] = ()  # what its user should know of it
    made_by: str = ""  # how pixels were made that were not decoded from files
    decoded: bool = False  # these pixels are cut from pictures that were

    def __len__(self) -> int:
        counts = [len(part) for part in (self.entries, self.images, self.labels) if part is not None and len(part)]
        return counts[0] if counts else 0


def open_source(dataset: Dataset, scratch: Path) -> Source:
    """Return the images of a recipe's dataset section; ``scratch`` is an empty folder for unpacked archives.

    Raises UserError for damaged or hostile archives, missing labels and wrong counts.
    """
    path = path_of(dataset)
    if path is None:
        source = _PACKAGED[dataset.source]()
    else:
        with reading(str(path), path):
            source = _READERS[dataset.source](dataset, path, scratch)
    if len(source) == 0:
        heic = any(map(is_heic, source.ignored_examples))
        todo = "HEIC is not read: convert it to JPEG first" if heic else "correct dataset.address or dataset.source"
        raise UserError(f"{source.place}: no images in it: {todo}")
    if dataset.images is not None and len(source) != dataset.images:
        raise UserError(
            f"{source.place}: {len(source):,} images, dataset.images says {dataset.images:,}: fetch the whole set, or correct it"
        )
    if dataset.classes:
        if source.labels is None:
            raise UserError(
                f"{source.place}: has no labels, the recipe says {dataset.classes} classes: add a dataset.json, "
                f"use source folder for class folders, or set dataset.classes to 0"
            )
        labelling.check_range(source.labels, dataset.classes, source.place)
    return source


# -- sources


def _digits() -> Source:
    images, labels = load_digits_images()
    made_by = "ink counts 0..16 stretched to 0..255, rounded"
    return Source("source digits", labels.astype(np.int32), images=images, made_by=made_by)


def _patches() -> Source:
    images, labels = load_patches()
    made_by = "means of 3x3 pixels, rounded; every window of 32x32 in a square of 96x96 of each photograph"
    return Source(
        "source patches", labels, images=images, class_names=("pagoda", "dahlia"), made_by=made_by, decoded=True
    )


def _cifar10(dataset: Dataset, path: Path, scratch: Path) -> Source:
    images, labels = load_cifar10(path, scratch)
    return Source(str(path), labels, images=images, made_by="pixels as stored")


def _edm_zip(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Open an archive by NVIDIA's tools: images, or EDM2's latents, and dataset.json."""
    entries = entries_of(path, scratch)
    latents = [entry for entry in entries if entry.name.endswith(LATENT_ENDING)] if dataset.latents else []
    images = latents or _images(entries)
    labels = labelling.from_dataset_json(entries, images, str(path)) if dataset.classes else None
    return _files(path, entries, images, labels)


def _folder(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Open class folders, or any folders with a dataset.json; on disk or packed."""
    entries = entries_of(path, scratch)
    images = _images(entries)
    labels = None
    if dataset.classes and images:
        labels = labelling.from_dataset_json(entries, images, str(path))
        if labels is None:
            return _class_folders(dataset, path, entries)
    else:
        labelling.refuse_splits(images, str(path))
    return _files(path, entries, images, labels)


def _ffhq(dataset: Dataset, path: Path, scratch: Path) -> Source:
    if dataset.classes:
        raise UserError("dataset.classes: FFHQ has no classes: set it to 0")
    return _folder(dataset, path, scratch)


def _afhqv2(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Open the folders under ``train``: cat, dog, wild."""
    return _class_folders(dataset, path, _in_train(path, entries_of(path, scratch)))


def _imagenet(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Open synset folders (on disk or packed, under ``train`` or not), or the ILSVRC tar of one tar a synset."""
    entries = _in_train(path, _expand_tars(path, entries_of(path, scratch)))
    images = _images(entries)
    if dataset.classes and images:
        labelling.refuse_wrapped([entry.name for entry in images], str(path))
        folders = sorted({entry.name.partition("/")[0] for entry in images})
        labelling.check_synsets(folders, dataset.classes, str(path))
    return _class_folders(dataset, path, entries)


def _webdataset(dataset: Dataset, path: Path, scratch: Path) -> Source:
    images, labels, ignored = webdataset_entries(path, scratch, labeled=bool(dataset.classes))
    return Source(str(path), labels, entries=images, ignored=ignored)


def _parquet(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Open files as Hugging Face writes them; of a folder that holds more, those of train."""
    files, others = parquet_files(path, scratch)
    images, labels, names = parquet_entries(files, dataset.classes)
    return Source(
        str(path), labels, entries=images, ignored=len(others), ignored_examples=tuple(others[:3]), class_names=names,
        notes=(ORDER_NOTE,),
    )  # fmt: skip


def _labels(dataset: Dataset, path: Path, scratch: Path) -> Source:
    """Read a dataset.json alone: data-free distillation (SiD) reads labels and never looks at an image."""
    if not dataset.classes:
        raise UserError(f"{path}: source labels holds nothing but labels: set dataset.classes")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= TEXT_BYTES else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if size > TEXT_BYTES:
        raise UserError(
            f"{path}: has {size:,} bytes, no list of labels has more than {TEXT_BYTES:,}: correct dataset.address"
        )
    labels = labelling.from_json(content, str(path))
    if not labels:
        raise UserError(f"{path}: has no labels: give a dataset.json with some")
    return Source(str(path), np.array([labels[name] for name in sorted(labels)], np.int32))


_PACKAGED: dict[str, Callable[[], Source]] = {"digits": _digits, "patches": _patches}  # in packages: nothing to fetch
_READERS: dict[str, Callable[[Dataset, Path, Path], Source]] = {
    "cifar10": _cifar10,
    "edm-zip": _edm_zip,
    "folder": _folder,
    "ffhq": _ffhq,
    "afhqv2": _afhqv2,
    "imagenet": _imagenet,
    "webdataset": _webdataset,
    "parquet": _parquet,
    "labels": _labels,
}


# -- parts


def _images(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if is_image(entry.name)]


def is_heic(name: str) -> bool:
    """Return whether a file is a photograph as telephones store it, which Pillow does not read."""
    return name.lower().endswith((".heic", ".heif"))


def _files(path: Path, entries: list[Entry], images: list[Entry], labels: np.ndarray | None) -> Source:
    taken = {entry.name for entry in images} | {labelling.DATASET_JSON}
    others = [entry.name for entry in entries if entry.name not in taken and not entry.name.endswith("/")]
    # Of the examples HEIC is first, and what a system leaves is last.
    others.sort(key=lambda name: (not is_heic(name), name.rpartition("/")[2].startswith(".")))
    return Source(str(path), labels, entries=images, ignored=len(others), ignored_examples=tuple(others[:3]))


def _class_folders(dataset: Dataset, path: Path, entries: list[Entry]) -> Source:
    """Open class folders; ImageNet's go without their names, which its list has."""
    images = _images(entries)
    labels = labelling.from_folders(entries, images, dataset.classes, str(path)) if dataset.classes and images else None
    source = _files(path, entries, images, labels)
    named = labels is not None and dataset.source != "imagenet"
    if not named:
        return source
    names = labelling.class_folders(images)
    note = labelling.order_note(names)
    return replace(source, class_names=names, notes=(note,) if note else ())


def _in_train(path: Path, entries: list[Entry]) -> list[Entry]:
    """Return the entries under the folder ``train``, named from there; all of them when there is no such folder.

    Raises UserError where ``train`` lies deeper, with what is not to be trained on beside it.
    """
    train = [entry for entry in entries if entry.name.startswith("train/") and entry.name != "train/"]
    if not train:
        labelling.refuse_splits(_images(entries), str(path))
    return [entry._replace(name=entry.name.removeprefix("train/")) for entry in train] or entries


def _expand_tars(path: Path, entries: list[Entry]) -> list[Entry]:
    expanded = []
    for entry in entries:
        if not entry.name.endswith(".tar") or is_hidden(entry.name):
            expanded.append(entry)
            continue
        if entry.crc is not None:
            raise UserError(f"{path}: tars inside a zip: unpack the zip first")
        folder = entry.name.removesuffix(".tar")
        expanded += [
            inner._replace(name=f"{folder}/{inner.name}") for inner in tar_entries(Path(entry.path), path, entry)
        ]
    expanded.sort(key=lambda entry: entry.name)
    return expanded
