"""Random numbers as a function of (seed, purpose, index): the same on any number of processes, resumable anywhere.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) on torch integers, so a
draw is the same on every device. The counter holds the image index and the position inside the draw, the key comes from seed and
purpose. All draws of training and scoring come through :class:`Draws`; golden tests hand in recorded draws with the same methods.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class DrawSource(Protocol):
    """The seam: ``indices`` is int64 [N] (image indices), a result is [N, *shape]."""

    def normal(self, purpose: str, indices: Tensor, shape: Sequence[int], dtype: torch.dtype = ...) -> Tensor: ...

    def uniform(self, purpose: str, indices: Tensor, shape: Sequence[int], dtype: torch.dtype = ...) -> Tensor: ...


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Ten Philox rounds on four int64 tensors that hold 32-bit words; returns four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap, yet both 32-bit halves are exact; the shift is arithmetic, hence the mask.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


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

    def words(self, purpose: str, indices: Tensor, count: int) -> Tensor:
        """[N] -> [N, count] int64, each holding 32 uniform random bits."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"))
        blocks = torch.arange((count + 3) // 4, device=indices.device)
        low, high, block = torch.broadcast_tensors(indices[:, None] & _MASK, indices[:, None] >> 32, blocks)
        four = philox((low, high, block, torch.zeros_like(block)), key)
        return torch.stack(four, dim=-1).flatten(1)[:, :count]

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniform in [0, 1) with 24 bits, so that float32 never rounds up to 1."""
        words = self.words(purpose, indices, math.prod(shape))
        return ((words >> 8).to(torch.float64) * 2.0**-24).to(dtype).reshape(-1, *shape)

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
