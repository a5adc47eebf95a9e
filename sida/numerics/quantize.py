"""Network output to 8-bit pixels and back. The published scores depend on truncation: rounding changes them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """EDM's rule before features: images in [-1, 1], any float dtype and shape -> uint8, x * 127.5 + 128 clipped, truncated.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 0.9999, 2.0])).tolist()
    [0, 128, 255, 255]
    """
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def unit_to_uint8(pixels: Tensor) -> Tensor:
    """EDM2's rule for the VAE's output: pixels in [0, 1] -> uint8, clipped, * 255, truncated."""
    return (pixels.clamp(0, 1) * 255).to(torch.uint8)


def to_preview_uint8(images: Tensor) -> Tensor:
    """Preview grids: images in [-1, 1] -> uint8, to the nearest level. Never for scores."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 -> [-1, 1]: x / 127.5 - 1. ``to_uint8`` gives the pixels back."""
    return pixels.to(dtype) / 127.5 - 1
