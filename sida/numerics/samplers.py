"""Samplers: the one-step generator, and Heun's method as in EDM (arXiv 2206.00364, algorithms 1 and 2) and EDM2, with guidance.

A sampler starts from unit normal ``z`` [B, C, H, W] and scales it itself. Call under ``torch.no_grad()``, networks in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sida.numerics.schedules import SIGMA_INIT, karras_sigmas


class ImageDenoiser(Protocol):
    """The part of a denoiser that a sampler uses: (x, sigma, labels) -> denoised x."""

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor: ...


def one_step(
    generator: ImageDenoiser, z: Tensor, labels: Tensor | None = None, sigma_init: float = SIGMA_INIT
) -> Tensor:
    """G(z, c) = D_theta(sigma_init z; sigma_init, c): unit normal z -> images [B, C, H, W]."""
    return generator(sigma_init * z, sigma_init, labels)


def heun(
    denoiser: ImageDenoiser,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int,
    guide: ImageDenoiser | None = None,
    guidance: float = 1.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    noise: Callable[[int], Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    network_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return images of ``dtype``, which is the state's: float64 in EDM, float32 in EDM2 (arXiv 2312.02696).

    N steps evaluate the network 2N - 1 times. With guidance g other than 1 an evaluation is ref + g (D - ref), ref from ``guide``:
    two networks. ``noise``, step -> unit normal like z, is asked where churn acts.

    Raises ValueError for guidance without ``guide``, for churn without ``noise`` and for fewer than 2 steps.
    """
    if guidance != 1 and guide is None:
        raise ValueError(f"guidance {guidance:g} needs a second network as its reference")
    if S_churn > 0 and noise is None:
        raise ValueError(f"S_churn {S_churn:g} adds noise in every step: give a source of noise")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x = x.to(network_dtype)
        image = denoiser(x, sigma, labels).to(dtype)
        if guide is None or guidance == 1:
            return image
        return guide(x, sigma, labels).to(dtype).lerp(image, guidance)

    sigmas = karras_sigmas(steps, dtype, z.device)
    levels = sigmas.tolist()  # decides on the host where churn acts
    x = z.to(dtype) * sigmas[0]
    for step in range(steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        gamma = min(S_churn / steps, math.sqrt(2) - 1) if S_min <= levels[step] <= S_max else 0.0
        raised = sigma + gamma * sigma
        if noise is not None and gamma > 0:
            x = x + (raised**2 - sigma**2).sqrt() * S_noise * noise(step).to(x)
        slope = (x - denoise(x, raised)) / raised
        euler = x + (sigma_next - raised) * slope
        if step < steps - 1:  # second-order correction
            slope_next = (euler - denoise(euler, sigma_next)) / sigma_next
            euler = x + (sigma_next - raised) * (slope + slope_next) / 2
        x = euler
    return x


def seeded_latents(seeds: Sequence[int], shape: Sequence[int], label_dim: int = 0) -> tuple[Tensor, Tensor]:
    """The authors' image writer: one CPU generator per seed, latents first, then a class uniform over ``label_dim``.

    Returns float32 [N, *shape] and int64 [N] (zeros if label_dim is 0). Scores use ``sida.numerics.draws`` instead.
    """
    latents, classes = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed % (1 << 32))
        latents.append(torch.randn(list(shape), generator=generator))
        classes.append(
            torch.randint(label_dim, (), generator=generator) if label_dim else torch.zeros((), dtype=torch.int64)
        )
    return torch.stack(latents), torch.stack(classes)
