"""Noise levels of training and sampling (EDM, arXiv 2206.00364; SiDA, arXiv 2410.14919).

All functions keep the dtype of their input; float32 in training, float64 in EDM's sampler.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA_DATA = 0.5
SIGMA_INIT = 2.5  # the noise level at which the one-step generator works
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
RHO = 7.0


def fake_score_sigma(n1: Tensor, P_mean: float, P_std: float) -> Tensor:
    """Phase A, and teacher training (EDM table 1): sigma = exp(P_mean + P_std n1), n1 unit normal; same shape."""
    return (P_mean + P_std * n1).exp()


def generator_sigma(
    u: Tensor, tmax: float, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """Phase B: sigma at t = u tmax / 1000, u uniform in [0, 1); same shape.

    t = 0 is the smallest noise; tmax 800 stops at sigma 24.41.
    """
    smallest, largest = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (largest + (1 - u * tmax / 1000) * (smallest - largest)) ** rho


def karras_sigmas(
    steps: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The sampler's noise levels, EDM equation 5: [steps + 1], from sigma_max down to sigma_min, then 0.

    Raises ValueError for fewer than 2 steps.

    >>> [round(sigma, 3) for sigma in karras_sigmas(5).tolist()]
    [80.0, 17.528, 2.515, 0.17, 0.002, 0.0]
    """
    if steps < 2:
        raise ValueError(f"a sampler needs at least 2 steps, not {steps}")
    index = torch.arange(steps, dtype=dtype, device=device)
    largest, smallest = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (largest + index / (steps - 1) * (smallest - largest)) ** rho
    return torch.cat([sigmas, torch.zeros_like(sigmas[:1])])
