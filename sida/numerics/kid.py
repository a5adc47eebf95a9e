"""Kernel Inception Distance (Binkowski et al., arXiv 1801.01401): unbiased MMD^2 with a cubic polynomial kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sida.numerics.draws import Draws

SUBSETS = 100
SUBSET_SIZE = 1000


def kid_subsets(real: int, generated: int, seed: int = 0, subsets: int = SUBSETS) -> list[tuple[Tensor, Tensor]]:
    """Seeded rows of (real, generated) per subset, int64 [m] each without repetition, m = min(real, generated, 1000)."""
    size = min(real, generated, SUBSET_SIZE)
    draws = Draws(seed)
    return [
        (
            draws.permutation(f"kid/{number}/real", real)[:size],
            draws.permutation(f"kid/{number}/generated", generated)[:size],
        )
        for number in range(subsets)
    ]


def kernel_distance(real: Tensor, generated: Tensor, subsets: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean over subsets of the unbiased MMD^2; features [N, F] and [M, F] of any float dtype, computed in float64.

    Raises ValueError for subsets of unequal halves or of fewer than 2 rows, and without any subset.
    """
    values = [_mmd2(real[rows].to(torch.float64), generated[others].to(torch.float64)) for rows, others in subsets]
    if not values:
        raise ValueError("a kernel distance needs at least one subset")
    return float(torch.stack(values).mean())


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    size = len(x)
    if size < 2 or len(y) != size:
        raise ValueError(f"a subset needs equally many rows of both sides, at least 2: not {size} and {len(y)}")
    within = _kernel(x, x) + _kernel(y, y)
    return (within.sum() - within.trace()) / (size * (size - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
