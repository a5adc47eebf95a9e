"""The training set in endless shuffled order: item i is a function of (seed, i), whatever the ranks; resuming replays nothing."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from sida import devices
from sida.data.order import ShuffledOrder
from sida.data.shards import Shards, network_input, one_hot
from sida.numerics.draws import Draws

THREADS = 2
AHEAD = 64  # batches read ahead at most; the oldest are dropped when a caller leaps


class ShuffledData:
    """Batches by position, read ahead in threads.

    ``stride`` is by how much every position grows until the same share of work comes round again: the global batch. What is asked
    for now is then asked for again at positions + stride, so that is what threads read meanwhile. ``None``: nothing is read ahead.
    """

    def __init__(self, shards: Shards, seed: int, device: torch.device, stride: int | None = None) -> None:
        self.shards, self.order, self.device = shards, ShuffledOrder(len(shards), seed), device
        self._draws, self._stride = Draws(seed), stride
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read ahead")
        self._ahead: OrderedDict[tuple[int, ...], Future[tuple[Tensor, Tensor]]] = OrderedDict()

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [N] positions in the order, on the host -> float32 [N, C, H, W] (images in [-1, 1], or latents drawn anew for every
        position) and one-hot labels float32 [N, classes], on the device."""
        future = self._ahead.pop(tuple(positions.tolist()), None)
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

    def _read_ahead(self, positions: Tensor) -> None:
        indices = self.order(positions)  # here: the order's cache of epochs is not for threads
        self._ahead[tuple(positions.tolist())] = self._threads.submit(self._read, indices)
        while len(self._ahead) > AHEAD:
            self._ahead.popitem(last=False)[1].cancel()

    def _read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        data, labels = self.shards.read(indices)
        return devices.to_send(data, self.device), devices.to_send(labels, self.device)
