"""Endless shuffled order of training images, as a function of the position alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sida.numerics.draws import Draws


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
            here = epochs == epoch
            items[here] = self._epoch(epoch)[positions[here] % self.count]
        return items
