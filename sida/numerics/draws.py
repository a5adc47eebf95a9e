"""Random numbers as a function of (seed, purpose, index): the same on any number of processes, resumable anywhere.

The generator is Philox (``sida.numerics.philox``), so a draw is the same on every device. The counter holds the image index and the
position inside the draw, the key comes from seed and purpose. All draws of training and scoring come through :class:`Draws`; golden
tests hand in recorded draws with the same methods.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy
import torch
from torch import Tensor

from sida.numerics.philox import MASKS, philox_masks, words


class DrawSource(Protocol):
    """The seam: ``indices`` is int64 [N] (image indices), a result is [N, *shape]."""

    def normal(self, purpose: str, indices: Tensor, shape: Sequence[int], dtype: torch.dtype = ...) -> Tensor: ...

    def uniform(self, purpose: str, indices: Tensor, shape: Sequence[int], dtype: torch.dtype = ...) -> Tensor: ...

    def keep(self, purpose: str, indices: Tensor, shape: Sequence[int], p: float) -> Tensor: ...


class Draws:
    """Counter-based draws for one seed. Indices may be any non-negative int64; results live on their device.

    Image 7 gets the same noise, whichever images are drawn beside it:

    >>> draws = Draws(0)
    >>> together = draws.normal("noise", torch.tensor([5, 6, 7]), (3, 32, 32))
    >>> alone = draws.normal("noise", torch.tensor([7]), (3, 32, 32))
    >>> torch.equal(together[2], alone[0])
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._counted = lru_cache(maxsize=64)(lambda count, device: torch.arange(count, device=device))

    def _key(self, purpose: str) -> tuple[int, int]:
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")

    def words(self, purpose: str, indices: Tensor, count: int) -> Tensor:
        """[N] -> [N, count] int64, each holding 32 uniform random bits."""
        blocks = self._counted((count + 3) // 4, indices.device)
        four = words(indices, blocks, self._key(purpose))
        return torch.stack(four, dim=-1).flatten(1)[:, :count]

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniform in [0, 1) with 24 bits, so that float32 never rounds up to 1."""
        words = self.words(purpose, indices, math.prod(shape))
        return ((words >> 8).to(torch.float64) * 2.0**-24).to(dtype).reshape(-1, *shape)

    def keep(self, purpose: str, indices: Tensor, shape: Sequence[int], p: float) -> Tensor:
        """Return bool [N, *shape], False with probability ``p``: ``uniform(...) >= p`` to the bit, in one kernel of a GPU."""
        count = math.prod(shape)
        groups = self._counted((count + MASKS - 1) // MASKS, indices.device)
        masks = philox_masks(indices, groups, *self._key(purpose), self.least_kept(p)).view(torch.bool)
        return masks[:, :count].reshape(-1, *shape)

    @staticmethod
    def least_kept(p: float) -> int:
        """Return the least 24-bit integer whose uniform draw is at least ``p``, compared in float32, as torch compares."""
        return math.ceil(float(numpy.float32(p)) * 2**24)

    def normal(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Unit normal by Box-Muller in float64, then cast: the same draw in every precision."""
        count = math.prod(shape)
        words = self.words(purpose, indices, count + count % 2).to(torch.float64)
        radius = (-2 * ((words[:, 0::2] + 0.5) * 2.0**-32).log()).sqrt()
        angle = words[:, 1::2] * (2 * math.pi * 2.0**-32)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return pairs.flatten(1)[:, :count].to(dtype).reshape(-1, *shape)

    def permutation(self, purpose: str, count: int) -> Tensor:
        """A permutation of ``count`` items, int64, by sorting 62-bit random keys."""
        words = self.words(purpose, torch.arange(count), 2)
        return torch.argsort((words[:, 0] << 30) | (words[:, 1] >> 2), stable=True)
