"""Exponential moving average of the generator, counted in images."""

from __future__ import annotations

import torch
from torch import Tensor


def ema_beta(images_seen: int, batch: int, half_life_max: float, ramp: float | None) -> float:
    """beta = 0.5^(batch / h), h = min(half_life_max, ramp * images_seen) in images; 0 in the very first iteration.

    ``images_seen`` is the count before the iteration. ``ramp`` None keeps the half-life constant.
    """
    half_life = half_life_max if ramp is None else min(half_life_max, ramp * images_seen)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(averages: list[Tensor], values: list[Tensor], beta: float) -> None:
    """average += (1 - beta) (value - average), in place: two networks' parameters. Raises ValueError if their counts differ."""
    if len(averages) != len(values):
        raise ValueError(f"the average has {len(averages)} parameters, the network {len(values)}")
    if averages:
        torch._foreach_lerp_(averages, values, 1 - beta)
