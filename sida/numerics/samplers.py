"""Samplers: the one-step generator, EDM's Heun sampler (arXiv 2206.00364, algorithms 1 and 2), EDM2's with guidance.

A sampler starts from unit normal ``z`` [B, C, H, W] and scales it itself. Call under ``torch.no_grad()``, networks in eval mode.
A sampler of N steps evaluates the network 2N - 1 times; :class:`Counted` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sida.numerics.schedules import RHO, SIGMA_INIT, SIGMA_MAX, SIGMA_MIN, karras_sigmas

Noise = Callable[[int], Tensor]  # step -> unit normal like z


class ImageDenoiser(Protocol):
    """The part of a denoiser that a sampler uses: (x, sigma, labels) -> denoised x."""

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Any: ...


class Counted:
    """A denoiser that remembers the noise level of each evaluation, as float32 or float64 scalars handed to the network."""

    def __init__(self, denoiser: ImageDenoiser) -> None:
        self.denoiser = denoiser
        self.sigmas: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Any:
        self.sigmas.append(torch.as_tensor(sigma))
        return self.denoiser(x, sigma, labels)

    @property
    def evaluations(self) -> int:
        return len(self.sigmas)


def one_step(
    generator: ImageDenoiser, z: Tensor, labels: Tensor | None = None, sigma_init: float = SIGMA_INIT
) -> Tensor:
    """G(z, c) = D_theta(sigma_init z; sigma_init, c): unit normal z -> images [B, C, H, W]."""
    return generator(sigma_init * z, sigma_init, labels)


def heun_edm(
    denoiser: ImageDenoiser,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int = 18,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    noise: Noise | None = None,
    network_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """EDM's sampler with a float64 state; returns float64 images. ``noise`` is asked in every step, also where it has no effect
    (as the published sampler draws it). Raises ValueError for churn without ``noise``."""
    return _heun(
        lambda x, sigma: denoiser(x.to(network_dtype), sigma, labels).to(torch.float64),
        z.to(torch.float64),
        karras_sigmas(steps, sigma_min, sigma_max, rho, torch.float64, z.device),
        _Churn(S_churn, S_min, S_max, S_noise),
        noise,
        always_draw=True,
    )


def heun_edm2(
    denoiser: ImageDenoiser,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    guide: ImageDenoiser | None = None,
    guidance: float = 1.0,
    steps: int = 32,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    noise: Noise | None = None,
    dtype: torch.dtype = torch.float32,
    network_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """EDM2's sampler (arXiv 2312.02696) with a state of ``dtype``, which it returns. With guidance g other than 1 each
    evaluation is ref + g (D - ref), ref from ``guide``: two networks. ``noise`` is asked only where churn acts, with the step.

    Raises ValueError for guidance without ``guide`` and for churn without ``noise``.
    """
    if guidance != 1 and guide is None:
        raise ValueError(f"guidance {guidance:g} needs a second network as its reference")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x = x.to(network_dtype)
        image: Tensor = denoiser(x, sigma, labels).to(dtype)
        if guide is None or guidance == 1:
            return image
        reference: Tensor = guide(x, sigma, labels).to(dtype)
        return reference.lerp(image, guidance)

    sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho, dtype, z.device)
    churn = _Churn(S_churn, S_min, S_max, S_noise)
    return _heun(denoise, z.to(dtype), sigmas, churn, noise, always_draw=False)


class _Churn:
    """Noise that a step adds before it denoises (EDM algorithm 2, line 4)."""

    def __init__(self, S_churn: float, S_min: float, S_max: float, S_noise: float) -> None:
        self.amount, self.lowest, self.highest, self.scale = S_churn, S_min, S_max, S_noise

    def gamma(self, sigma: float, steps: int) -> float:
        inside = self.lowest <= sigma <= self.highest
        return min(self.amount / steps, math.sqrt(2) - 1) if inside else 0.0


def _heun(
    denoise: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    sigmas: Tensor,
    churn: _Churn,
    noise: Noise | None,
    always_draw: bool,
) -> Tensor:
    if churn.amount > 0 and noise is None:
        raise ValueError(f"S_churn {churn.amount:g} adds noise in every step: give a source of noise")
    steps = len(sigmas) - 1
    levels = sigmas.tolist()  # decides on the host where churn acts
    x = z * sigmas[0]
    for step in range(steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        gamma = churn.gamma(levels[step], steps)
        raised = sigma + gamma * sigma
        if noise is not None and (always_draw or gamma > 0):
            x = x + (raised**2 - sigma**2).sqrt() * churn.scale * noise(step).to(x)
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
