"""CIFAR-10 as published, a tar.gz of pickles, or unpacked: read by the restricted reader; nothing in the pickles is executed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.entries import Entry, Reader, Unreadable, is_hidden
from sida.data.folders import entries_of
from sida.data.labels import is_label
from sida.data.tars import tar_entries, unpacked
from sida.errors import UserError
from sida.foreign import read_pickle
from sida.printing import one_line

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER = "cifar-10-batches-py"
_ARCHIVE = "cifar-10-python.tar.gz"


def archive_or_batches(path: Path) -> Path:
    """Return where the data lie: the archive in a folder that torchvision downloaded to, else the batches there, else ``path``.

    The archive first: its digest is the published one, and the step's result the one that others have.
    """
    places = (path / _ARCHIVE, path / _FOLDER) if path.is_dir() else ()
    return next((place for place in places if place.exists()), path)


def load_cifar10(path: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the training set, data_batch_1 to 5, each as stored: images uint8 [N, 3, 32, 32], labels int32 [N].

    ``path`` is the archive, or a folder of what was in it. The test batch is not part of it. Raises UserError for damaged data, or
    those of another layout.
    """
    members = _members(path, scratch)
    batches = [_batch(path, members, name) for name in TRAINING]
    _check_meta(path, members)
    images = np.concatenate([images for images, _ in batches])
    return images, np.concatenate([labels for _, labels in batches])


def _members(path: Path, scratch: Path) -> dict[str, Entry]:
    """Return the files by their names without folders. Raises UserError where two have the same."""
    members: dict[str, Entry] = {}
    for entry in entries_of(path, scratch) if path.is_dir() else tar_entries(unpacked(path, scratch), path):
        name = entry.name.rpartition("/")[2]
        if not name or is_hidden(entry.name):
            continue
        if (other := members.setdefault(name, entry)) is not entry:
            raise UserError(
                f"{path}: holds {one_line(other.name, 80)} and {one_line(entry.name, 80)}: fetch cifar-10-python.tar.gz again"
            )
    return members


def _batch(path: Path, members: dict[str, Entry], name: str) -> tuple[np.ndarray, np.ndarray]:
    content = _pickle(path, members, name)
    data, labels = _field(content, "data"), _field(content, "labels")
    if not (
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3 * 32 * 32
    ):
        raise UserError(f"{path}: {name}: data is not uint8 [N, 3072]: fetch cifar-10-python.tar.gz again")
    if not (isinstance(labels, list) and len(labels) == len(data) and all(map(is_label, labels))):
        raise UserError(
            f"{path}: {name}: has not one whole-number label for each of {len(data)} images: fetch it again"
        )
    return data.reshape(-1, 3, 32, 32), np.array(labels, np.int32)


def _check_meta(path: Path, members: dict[str, Entry]) -> None:
    """Check that the class names, if present, are CIFAR-10's: CIFAR-100's file has the same layout."""
    if "batches.meta" not in members:
        return
    names = _field(_pickle(path, members, "batches.meta"), "label_names")
    texts = (
        [name.decode("latin1") if isinstance(name, bytes) else name for name in names] if type(names) is list else []
    )
    if not all(isinstance(text, str) for text in texts) or tuple(texts) != CLASSES:
        raise UserError(f"{path}: batches.meta names other classes than CIFAR-10's: fetch cifar-10-python.tar.gz")


def _pickle(path: Path, members: dict[str, Entry], name: str) -> Any:
    if name not in members:
        raise UserError(f"{path}: no {_FOLDER}/{name} in it: fetch cifar-10-python.tar.gz, the python version, again")
    try:
        with closing(Reader()) as reader:
            return read_pickle(reader.read(members[name]), f"{path}: {name}")
    except Unreadable as error:
        raise UserError(f"{path}: {name} {error}: fetch it again") from error


def _field(content: Any, name: str) -> Any:
    """Return a dict's entry, whose key Python 2 wrote as bytes."""
    if not isinstance(content, dict):
        return None
    return content.get(name.encode(), content.get(name))
