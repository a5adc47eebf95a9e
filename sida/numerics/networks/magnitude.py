"""Magnitude-preserving layers of EDM2 (Karras et al., arXiv 2312.02696, section 2 and appendix B), published names.

Written from the paper and checked against golden numbers. Weights are normalized at each use ("traditional weight
normalization"); ``force_normalization`` replaces the stored ones by their normalized values, so that Adam's step size keeps its
meaning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear, silu

from sida.numerics.constants import constant
from sida.numerics.networks.layers import Dropout, attend

NORM_EPS = 1e-4
BLOCK_BALANCE = 0.3  # the share of a block's residual branch, and of its attention


def normalize(x: Tensor, dim: int | Sequence[int] | None = None, eps: float = NORM_EPS) -> Tensor:
    """Scale to unit root mean square over ``dim`` (default: all but the first); norms in float32 at least."""
    dims = list(range(1, x.ndim)) if dim is None else dim
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    norm = eps + norm * math.sqrt(math.prod(norm.shape[1:]) / math.prod(x.shape[1:]))  # no batch size: torch.export
    return x / norm.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU divided by its root mean square under a unit normal (equation 81)."""
    return silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Weighted sum of unit-variance inputs with unit variance (equation 88)."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Concatenation of channels with the share t of the variance from b (equation 103)."""
    a_channels, b_channels = a.shape[1], b.shape[1]
    total = math.sqrt((a_channels + b_channels) / ((1 - t) ** 2 + t**2))
    a_weight = total / math.sqrt(a_channels) * (1 - t)
    b_weight = total / math.sqrt(b_channels) * t
    return torch.cat([a_weight * a, b_weight * b], dim=1)


def resample(x: Tensor, mode: Literal["down", "up"], taps: Sequence[int] = (1, 1)) -> Tensor:
    """Halve or double the resolution of [B, C, H, W] with a separable filter of even length."""
    if len(set(taps)) == 1:  # the published box filter, in one kernel
        kernel = x.new_full((1, 1, len(taps), len(taps)), len(taps) ** -2)
    else:
        outer = [one * other / sum(taps) ** 2 for one in taps for other in taps]
        kernel = constant(outer, x).reshape(1, 1, len(taps), len(taps))
    kernel = kernel.expand(x.shape[1], 1, -1, -1)
    padding = (len(taps) - 1) // 2
    if mode == "down":
        return conv2d(x, kernel, stride=2, padding=padding, groups=x.shape[1])
    return conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=x.shape[1])


class MPFourier(nn.Module):
    """[B] -> [B, channels]: cosines of fixed random frequencies and phases, unit variance (equation 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * torch.pi * torch.randn(channels) * bandwidth)
        self.register_buffer("phases", 2 * torch.pi * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        accurate = torch.promote_types(x.dtype, torch.float32)
        angles = x.to(accurate).outer(self.freqs.to(accurate)) + self.phases.to(accurate)
        return (angles.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution ([B, C, H, W], kernel (k, k)) or linear layer ([B, C], kernel ()) without bias (equation 47).

    Computes in the input's dtype; the weight is normalized in its own.
    """

    weight_format: torch.memory_format = torch.preserve_format  # of the weight as it is used
    keeps_folded = True  # a frozen layer keeps its weight as it is used

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self._folded: tuple[tuple[Any, ...], Tensor] | None = None

    def _fold(self, gain: Tensor | float, dtype: torch.dtype) -> Tensor:
        """Return the weight as it is used: normalized, scaled, cast."""
        weight = normalize(self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)))
        weight = weight * (gain / math.sqrt(self.weight[0].numel()))
        return weight.to(dtype, memory_format=self.weight_format)

    def _frozen_fold(self, gain: Tensor | float, dtype: torch.dtype) -> Tensor:
        """Return the same, computed once for as long as weight and gain stay: in frozen networks, or while theta samples."""
        parts = [part for part in (self.weight, gain) if isinstance(part, Tensor)]
        if torch.compiler.is_compiling() or any(part.is_inference() for part in parts):  # without versions to count
            return self._fold(gain, dtype)
        scale = gain if isinstance(gain, float) else 1.0
        state = (dtype, scale, *((part.data_ptr(), part._version) for part in parts))
        if self._folded is None or self._folded[0] != state:
            with torch.no_grad():
                self._folded = state, self._fold(gain, dtype)
        return self._folded[1]

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        trains = self.weight.requires_grad or (isinstance(gain, Tensor) and gain.requires_grad)
        if (trains and torch.is_grad_enabled()) or not self.keeps_folded:
            self._folded = None  # give its memory back
            weight = self._fold(gain, x.dtype)
        else:
            weight = self._frozen_fold(gain, x.dtype)
        if weight.ndim == 2:
            return linear(x, weight)
        return conv2d(x, weight, padding=weight.shape[-1] // 2)


def magnitude_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of all magnitude-preserving layers by name."""
    return {f"{name}.weight": module.weight for name, module in network.named_modules() if isinstance(module, MPConv)}


@torch.no_grad()
def force_normalization(weights: Iterable[Tensor]) -> None:
    """Replace weights, or some rows of them, by their normalized values; the published runs do so before each forward that trains.

    The small constant in the norm makes a second call change a weight again: by 1e-8, and by more where the norm was far from 1.
    """
    for weight in weights:
        weight.copy_(normalize(weight))


def release_folded(network: nn.Module) -> None:
    """Give back the memory of weights that frozen layers keep as they use them; the next forward computes them anew."""
    for module in network.modules():
        if isinstance(module, MPConv):
            module._folded = None


def folded_bytes(network: nn.Module) -> int:
    """Return the bytes of weights that frozen layers keep as they use them."""
    folded = (module._folded for module in network.modules() if isinstance(module, MPConv))
    return sum(pair[1].nbytes for pair in folded if pair is not None)


class Block(nn.Module):
    """Residual block of the encoder ("enc") or decoder ("dec") with optional resampling and self-attention (figure 21).

    x [B, in, H, W], emb [B, emb] -> [B, out, H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        flavor: Literal["enc", "dec"] = "enc",
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        self.flavor, self.up, self.down, self.clip_act = flavor, up, down, clip_act
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if flavor == "enc" else in_channels, out_channels, (3, 3))
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.dropout = Dropout(dropout)
        self.conv_res1 = MPConv(out_channels, out_channels, (3, 3))
        self.conv_skip = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else None
        if self.num_heads:
            self.attn_qkv = MPConv(out_channels, out_channels * 3, (1, 1))
            self.attn_proj = MPConv(out_channels, out_channels, (1, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.up or self.down:
            x = resample(x, "up" if self.up else "down")
        if self.flavor == "enc":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        residual = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        residual = mp_silu(residual * scale[:, :, None, None].to(residual.dtype))
        residual = self.conv_res1(self.dropout(residual))
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, residual, BLOCK_BALANCE)
        if self.num_heads:
            attended = attend(self.attn_qkv(x), self.num_heads, partial(normalize, dim=2))  # by cosines
            x = mp_sum(x, self.attn_proj(attended), BLOCK_BALANCE)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)
