"""Shards: fixed-size records, so that record i is found by arithmetic.

Record: label as little-endian int32 (-1 when there are none), then uint8 [channels, resolution, resolution]. Any shard opens with
``numpy.memmap`` and the dtype of :func:`record_dtype`; the index is the dataset's manifest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sida.errors import Corrupt
from sida.manifests import DatasetResult, Shard
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef, fetch_object

SHARD_BYTES = 128 * 2**20


def record_dtype(channels: int, resolution: int) -> np.dtype:
    """The layout of one record."""
    return np.dtype([("label", "<i4"), ("data", "u1", (channels, resolution, resolution))])


def write_shards(
    images: np.ndarray, labels: np.ndarray | None, folder: Path, put: Callable[[Path, str], ObjectRef]
) -> tuple[Shard, ...]:
    """images uint8 [N, C, H, W] (and labels int [N]) -> published shards, in order.

    ``put`` stores a finished file under its digest; a shard is never visible before it is whole.
    """
    layout = record_dtype(images.shape[1], images.shape[2])
    per_shard = max(1, SHARD_BYTES // layout.itemsize)
    shards = []
    for number, start in enumerate(range(0, len(images), per_shard)):
        part = slice(start, start + per_shard)
        records = np.empty(len(images[part]), layout)
        records["data"] = images[part]
        records["label"] = -1 if labels is None else labels[part]
        path = folder / f"shard-{number:05d}.bin"
        records.tofile(path)
        shards.append(Shard(object=put(path, path.name), count=len(records)))
        path.unlink()
    return tuple(shards)


class Shards:
    """Map-style access to a data set: record i, from whichever shard holds it."""

    def __init__(self, store: ObjectStore, dataset: DatasetResult) -> None:
        """Open every shard, verified. Raises Corrupt or NotFound naming the shard."""
        layout = record_dtype(dataset.channels, dataset.resolution)
        self._parts: list[np.ndarray] = []
        for shard in dataset.shards:
            path = fetch_object(store, shard.object)
            if path.stat().st_size != shard.count * layout.itemsize:
                raise Corrupt(
                    f"{path}: {shard.object.name} does not hold {shard.count} records: run prepare_data again"
                )
            self._parts.append(np.memmap(path, layout, mode="r"))
        self._ends = list(accumulate(len(part) for part in self._parts))
        self.classes = dataset.classes

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [N] -> images uint8 [N, C, H, W], labels int64 [N]."""
        records = [self._record(index) for index in indices.tolist()]
        images = torch.from_numpy(np.stack([record["data"] for record in records]))
        return images, torch.tensor([int(record["label"]) for record in records])

    def labels(self) -> Tensor:
        """int64 [count]: every label, in order."""
        return torch.from_numpy(np.concatenate([part["label"] for part in self._parts]).astype(np.int64))

    def _record(self, index: int) -> np.ndarray:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [N] -> images float32 [N, C, H, W] in [-1, 1], one-hot labels float32 [N, classes]."""
        images, labels = self.read(indices)
        return images.to(torch.float32) / 127.5 - 1, one_hot(labels, self.classes)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 [N] -> float32 [N, classes]; [N, 0] for unconditional networks."""
    if classes == 0:
        return torch.zeros(len(labels), 0)
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)
