"""Samplers: a generator's few steps (arXiv 2505.12674), and Heun's method as in EDM and EDM2, with guidance.

EDM: arXiv 2206.00364, algorithms 1 and 2. EDM2: arXiv 2312.02696.

A sampler starts from unit normal ``z`` [B, C, H, W] and scales it itself. Call under ``torch.no_grad()``, networks in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sida.numerics.networks.precondition import Denoiser
from sida.numerics.schedules import karras_sigmas


class ImageDenoiser(Protocol):
    """The part of a denoiser that a sampler uses: (x, sigma, labels) -> denoised x."""

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor: ...


def each_step(
    generator: ImageDenoiser, noise: Callable[[int], Tensor], labels: Tensor | None, sigmas: Sequence[float]
) -> Iterator[Tensor]:
    """Yield images [B, C, H, W]: x_1 = D_theta(sigma_1 z_1; sigma_1, c), then x_j = D_theta(x_{j-1} + sigma_j z_j; sigma_j, c).

    ``noise``: step, from 1 on -> unit normal z_j [B, C, H, W], fresh in each. ``sigmas``: ``step_sigmas``; one is SiD's generator.
    """
    x: Tensor | None = None
    for step, sigma in enumerate(sigmas, 1):
        z = sigma * noise(step)
        x = generator(z if x is None else x + z, sigma, labels)
        yield x


def last_step(
    generator: ImageDenoiser, noise: Callable[[int], Tensor], labels: Tensor | None, sigmas: Sequence[float]
) -> Tensor:
    """G(z, c): the images after the last step."""
    *_, x = each_step(generator, noise, labels, sigmas)
    return x


def own_step(
    generator: Denoiser,
    noise: Callable[[int, Tensor | slice], Tensor],
    labels: Tensor,
    sigmas: Sequence[float],
    steps: Sequence[int],
) -> Tensor:
    """x_j of ``each_step`` for images with a step j of their own, of which the last evaluation alone has a gradient.

    ``noise``: step, places among the images -> unit normal. ``steps``: 1 to len(sigmas) for each image. The evaluations before see
    no dropout, as in sampling, and those images alone that go on; one at least, so that all processes gather a divided network.
    """
    noisy = sigmas[0] * noise(1, slice(None))
    if len(sigmas) == 1:
        return generator(noisy, sigmas[0], labels)
    trains = generator.training
    generator.eval()
    with torch.no_grad():
        for number in range(1, len(sigmas)):
            further = [place for place, step in enumerate(steps) if step > number]
            places = torch.tensor(further or [0], device=noisy.device)
            x = generator(noisy[places], sigmas[number - 1], labels[places])
            if further:
                noisy = noisy.index_copy(0, places, x + sigmas[number] * noise(number + 1, places))
    generator.train(trains)
    return generator(noisy, noisy.new_tensor([sigmas[step - 1] for step in steps]), labels)


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
