"""Map-style access to a data set's shards, on this machine or in a remote store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from sida.data.layout import data_shape, dtype_of
from sida.data.ranged import ShardReader, open_parts
from sida.errors import Corrupt
from sida.manifests import DatasetResult
from sida.numerics.latents import draw_latent
from sida.numerics.quantize import from_uint8
from sida.stores import ObjectStore

BLOCK = 4096  # records read at once where all are


class Shards:
    """Records of a data set, from whichever shard holds them. Safe for threads.

    A folder's shards, and a small data set of a remote store, are verified here and mapped. Of a large remote one single records
    are read by range, and checked, until verified copies of whole shards, as many as the cache may hold, have arrived.
    """

    def __init__(self, store: ObjectStore, dataset: DatasetResult) -> None:
        """Open the shards. Raises Corrupt or NotFound naming the shard, or Corrupt when the index does not add up."""
        layout = dtype_of(dataset)
        _check_index(dataset, layout)
        self.dataset, self.classes, self._layout = dataset, dataset.classes, layout
        self._ends = list(accumulate(shard.count for shard in dataset.shards))
        self._parts: list[ShardReader] = open_parts(store, dataset.shards, layout)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return self._layout.itemsize

    def records(self, indices: Sequence[int]) -> np.ndarray:
        """Return records [N] of the layout in ``sida.data.layout``, in the order asked for."""
        records = np.empty(len(indices), self._layout)
        places: dict[int, list[tuple[int, int]]] = {}
        for slot, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"record {index} of {len(self)}")
            part = bisect_right(self._ends, index)
            places.setdefault(part, []).append((slot, index - (self._ends[part - 1] if part else 0)))
        waiting = [(slots, self._parts[part].ask([at for _, at in slots])) for part, slots in places.items()]
        for slots, answer in waiting:
            records[[slot for slot, _ in slots]] = answer()
        return records

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [N] -> data, labels int64 [N] (-1: none). Data is uint8 [N, C, H, W]; of latents float32 [N, 2 C, h, w]."""
        records = self.records(indices.tolist())
        return torch.from_numpy(records["data"].copy()), torch.from_numpy(records["label"].astype(np.int64))

    def labels(self) -> Tensor:
        """Return int64 [count]: every label, in order. Reads every record, a block at a time."""
        indices = range(len(self))
        blocks = [self.records(indices[start : start + BLOCK])["label"] for start in indices[::BLOCK]]
        return torch.from_numpy(np.concatenate(blocks).astype(np.int64))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [N] -> what networks see, float32 [N, C, H, W], and one-hot labels float32 [N, classes].

        Images are in [-1, 1]; latents are normalized means; of labels alone the images are zeros.
        """
        data, labels = self.read(indices)
        return network_input(data, self.dataset), one_hot(labels, self.classes)


def network_input(data: Tensor, dataset: DatasetResult, eps: Tensor | None = None) -> Tensor:
    """Turn data as stored into float32 [N, C, H, W]; unit normal ``eps`` [N, C, H, W] draws latents, else they are their means."""
    if dataset.record == "labels":
        shape = data_shape("pixels", dataset.channels, dataset.resolution)
        return torch.zeros(len(data), *shape, device=data.device)
    if dataset.record == "pixels":
        return from_uint8(data)
    assert dataset.latents is not None
    eps = torch.zeros_like(data[:, : dataset.channels]) if eps is None else eps
    return draw_latent(data, eps, dataset.latents.raw_mean, dataset.latents.raw_std)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return int64 [N] as float32 [N, classes]; [N, 0] for unconditional networks."""
    if classes == 0:
        return torch.zeros(len(labels), 0, device=labels.device)
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def _check_index(dataset: DatasetResult, layout: np.dtype) -> None:
    """Raise Corrupt when the manifest, which is the index, contradicts itself."""
    wrong = [s for s in dataset.shards if s.object.size != s.count * layout.itemsize]
    if wrong:
        raise Corrupt(
            f"data set index: {wrong[0].object.name} cannot hold {wrong[0].count} records of {layout.itemsize} bytes in "
            f"{wrong[0].object.size}: run prepare_data again"
        )
    total = sum(shard.count for shard in dataset.shards)
    if total != dataset.count or len(dataset.histogram) != dataset.classes:
        raise Corrupt(f"data set index: {total} records in shards, {dataset.count} in all: run prepare_data again")
    if dataset.classes and sum(dataset.histogram) != dataset.count:
        raise Corrupt(
            f"data set index: the histogram adds up to {sum(dataset.histogram)}, not {dataset.count}: run it again"
        )
