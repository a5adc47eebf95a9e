"""The training set in endless shuffled order: item i is a function of (seed, i), whatever the ranks; resuming replays nothing."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from sida import devices
from sida.data.shards import Shards, network_input, one_hot
from sida.numerics.draws import Draws

THREADS = 2
AHEAD_BYTES = 2**30  # of records read ahead at most: two phases of every published run on one GPU


class ShuffledOrder:
    """Item ``k`` of the endless order: epoch k // count, shuffled anew for every epoch, each image once an epoch.

    Holds the permutation of two epochs (O(count) integers), so that resuming at any position replays nothing.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        draws = Draws(seed)
        self._epoch = lru_cache(maxsize=2)(lambda epoch: draws.permutation(f"data order {epoch}", count))

    def __call__(self, positions: Tensor) -> Tensor:
        """Return int64 [N] image indices at int64 [N] positions in the endless order."""
        epochs = positions // self.count
        items = torch.empty_like(positions)
        for epoch in torch.unique(epochs).tolist():
            inside = epochs == epoch
            items[inside] = self._epoch(epoch)[positions[inside] % self.count]
        return items


class ShuffledData:
    """Batches by position, read ahead in threads.

    ``stride`` is by how much every position grows until the same share of work comes round again: the global batch. What is asked
    for now is then asked for again at positions + stride, so that is what threads read meanwhile: as many batches as there are in
    between, up to ``ahead_bytes``. ``None``: nothing is read ahead.
    """

    def __init__(
        self,
        shards: Shards,
        seed: int,
        device: torch.device,
        stride: int | None = None,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self.shards, self.order, self.device = shards, ShuffledOrder(len(shards), seed), device
        self._draws, self._stride = Draws(seed), stride
        self._room = ahead_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read ahead")
        self._ahead: dict[tuple[int, ...], Future[tuple[Tensor, Tensor]]] = {}

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at int64 [N] positions in the order, on the host, as float32 [N, C, H, W] (in [-1, 1], or latents
        drawn anew for every position) and one-hot labels float32 [N, classes], on the device."""
        future = self._take(tuple(positions.tolist()))
        indices = self.order(positions)
        data, labels = future.result() if future else self._read(indices)
        if self._stride is not None:
            self._read_ahead(positions + self._stride)
        data, labels = (devices.sent(part, self.device) for part in (data, labels))
        eps = None
        if self.shards.dataset.record == "latents":
            shape = (self.shards.dataset.channels, *data.shape[2:])
            eps = self._draws.normal("data/latent", devices.sent(positions, self.device), shape)
        return network_input(data, self.shards.dataset, eps), one_hot(labels, self.shards.classes)

    def _take(self, positions: tuple[int, ...]) -> Future[tuple[Tensor, Tensor]] | None:
        """Return the batch read ahead for these positions, if any. After a jump, batches behind or too far ahead are dropped."""
        ready = self._ahead.pop(positions, None)
        if ready is not None:
            self._room += self._bytes(positions)
        passed = [
            key for key in self._ahead if not self._stride or not positions[0] < key[0] <= positions[0] + self._stride
        ]
        for key in passed:
            self._ahead.pop(key).cancel()
            self._room += self._bytes(key)
        return ready

    def _read_ahead(self, positions: Tensor) -> None:
        """Start reading a batch, if there is room: the batches already there are needed before."""
        key = tuple(positions.tolist())
        if self._bytes(key) <= self._room:
            self._room -= self._bytes(key)
            indices = self.order(positions)  # here: the order's cache of epochs is not for threads
            self._ahead[key] = self._threads.submit(self._read, indices)

    def _bytes(self, positions: tuple[int, ...]) -> int:
        return len(positions) * self.shards.record_bytes

    def _read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        data, labels = self.shards.read(indices)
        return devices.to_send(data, self.device), devices.to_send(labels, self.device)
