"""Noise levels of training and sampling (EDM, arXiv 2206.00364; SiDA, arXiv 2410.14919).

All functions keep the dtype of their input; float32 in training, float64 in EDM's sampler.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA_DATA = 0.5
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
RHO = 7.0
_SMALLEST, _LARGEST = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)


def fake_score_sigma(n1: Tensor, P_mean: float, P_std: float) -> Tensor:
    """Phase A, and teacher training (EDM table 1): sigma = exp(P_mean + P_std n1), n1 unit normal; same shape."""
    return (P_mean + P_std * n1).exp()


def generator_sigma(u: Tensor, tmax: float) -> Tensor:
    """Phase B: sigma at t = u tmax / 1000, u uniform in [0, 1); same shape.

    t = 0 is the smallest noise; tmax 800 stops at sigma 24.41.
    """
    return (_LARGEST + (1 - u * tmax / 1000) * (_SMALLEST - _LARGEST)) ** RHO


def step_sigmas(sigma_init: float, steps: int) -> list[float]:
    """Noise levels of a generator's steps, from sigma_init downwards, evenly spaced in the t of ``generator_sigma``.

    t_j = t_1 (k - j + 1) / k: the level that would follow the last is SIGMA_MIN. That levels lie so is this project's choice.

    >>> [round(sigma, 3) for sigma in step_sigmas(2.5, 4)]
    [2.5, 0.739, 0.169, 0.026]
    """
    first = sigma_init ** (1 / RHO)
    return [sigma_init] + [(first + step / steps * (_SMALLEST - first)) ** RHO for step in range(1, steps)]


def karras_sigmas(steps: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """The sampler's noise levels, EDM equation 5: [steps + 1], from SIGMA_MAX down to SIGMA_MIN, then 0.

    Raises ValueError for fewer than 2 steps.

    >>> [round(sigma, 3) for sigma in karras_sigmas(5).tolist()]
    [80.0, 17.528, 2.515, 0.17, 0.002, 0.0]
    """
    if steps < 2:
        raise ValueError(f"a sampler needs at least 2 steps, not {steps}")
    index = torch.arange(steps, dtype=dtype, device=device)
    sigmas = (_LARGEST + index / (steps - 1) * (_SMALLEST - _LARGEST)) ** RHO
    return torch.cat([sigmas, torch.zeros_like(sigmas[:1])])
