"""EDM2's latent normalisation (arXiv 2312.02696): latents of the Stable Diffusion VAE, each channel to a deviation of 0.5."""

from __future__ import annotations

import torch
from torch import Tensor

RAW_MEANS = (5.81, 3.25, 0.12, -2.15)
RAW_STDS = (4.17, 4.62, 3.71, 3.28)
FINAL_STD = 0.5


def latent_scale_bias() -> tuple[Tensor, Tensor]:
    """scale and bias, float32 [4] each: latent = raw * scale + bias."""
    scale = torch.tensor(FINAL_STD) / torch.tensor(RAW_STDS)
    return scale, -torch.tensor(RAW_MEANS) * scale


def draw_latent(mean_std: Tensor, eps: Tensor) -> Tensor:
    """Stored encoder output [B, 8, h, w] (4 means, then 4 standard deviations) and unit normal eps [B, 4, h, w] -> normalised
    latents [B, 4, h, w]."""
    mean, std = mean_std.chunk(2, dim=1)
    scale, bias = (value.to(mean).reshape(1, -1, 1, 1) for value in latent_scale_bias())
    return (mean + std * eps) * scale + bias


def decoder_input(latents: Tensor) -> Tensor:
    """Normalised latents [B, 4, h, w] -> what the VAE's decoder takes."""
    scale, bias = (value.to(latents).reshape(1, -1, 1, 1) for value in latent_scale_bias())
    return (latents - bias) / scale
