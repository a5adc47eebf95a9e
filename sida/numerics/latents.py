"""EDM2's latent normalization (arXiv 2312.02696): latents of the Stable Diffusion VAE, each channel to a deviation of 0.5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sida.numerics.constants import constant

RAW_MEANS = (5.81, 3.25, 0.12, -2.15)
RAW_STDS = (4.17, 4.62, 3.71, 3.28)
FINAL_STD = 0.5


def latent_scale_bias(
    like: Tensor, raw_means: Sequence[float] = RAW_MEANS, raw_stds: Sequence[float] = RAW_STDS
) -> tuple[Tensor, Tensor]:
    """scale and bias, [channels, 1, 1] each in the dtype and on the device of ``like``: latent = raw * scale + bias."""
    scale = torch.tensor(FINAL_STD) / torch.tensor(raw_stds)
    bias = -torch.tensor(raw_means) * scale
    return constant(scale.tolist(), like)[:, None, None], constant(bias.tolist(), like)[:, None, None]


def draw_latent(
    mean_std: Tensor, eps: Tensor, raw_means: Sequence[float] = RAW_MEANS, raw_stds: Sequence[float] = RAW_STDS
) -> Tensor:
    """Stored encoder output [B, 8, h, w] (4 means, then 4 standard deviations) and unit normal eps [B, 4, h, w] -> normalized
    latents [B, 4, h, w]."""
    mean, std = mean_std.chunk(2, dim=1)
    scale, bias = latent_scale_bias(mean, raw_means, raw_stds)
    return (mean + std * eps) * scale + bias


def decoder_input(
    latents: Tensor, raw_means: Sequence[float] = RAW_MEANS, raw_stds: Sequence[float] = RAW_STDS
) -> Tensor:
    """Turn normalized latents [B, 4, h, w] into the input of the VAE's decoder."""
    scale, bias = latent_scale_bias(latents, raw_means, raw_stds)
    return (latents - bias) / scale
