"""Building blocks that SongUNet and DhariwalUNet share, with the published parameter names.

Written from the EDM paper (arXiv 2206.00364, appendix F, table 7) and checked against golden numbers. Layers compute in the
dtype of their input: float32 master weights are cast at each call (section 1 of the method: "each layer casts its weight").
Activations are [B, C, H, W] unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    conv_transpose2d,
    dropout,
    group_norm,
    linear,
    scaled_dot_product_attention,
    silu,
)

from sida.numerics.draws import DrawSource


def initial_weight(shape: Sequence[int], gain: float) -> Tensor:
    """Return a Xavier-uniform start scaled by ``gain`` (0 starts a residual branch silent)."""
    weight = torch.empty(*shape)
    nn.init.xavier_uniform_(weight)
    return weight * gain


def cast(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the parameter in the dtype of the activations."""
    return None if parameter is None else parameter.to(like.dtype)


class Linear(nn.Module):
    """[B, in] -> [B, out]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(initial_weight([out_features, in_features], gain))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype), cast(self.bias, x))


class Conv2d(nn.Module):
    """Convolution with optional doubling or halving of the resolution.

    ``kernel`` 0 resamples only. With ``fused_resample`` the filter acts after (down) or before (up) the convolution with one
    shared padding, as NCSN++'s residual input branch has it; otherwise the image is resampled first, then convolved.
    """

    resample_filter: Tensor | None
    weight_format: torch.memory_format = torch.preserve_format  # of the weight as it is used

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[int] = (1, 1),
        fused_resample: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.kernel, self.up, self.down, self.fused_resample = kernel, up, down, fused_resample
        self.weight = self.bias = None
        if kernel:
            self.weight = nn.Parameter(initial_weight([out_channels, in_channels, kernel, kernel], gain))
            self.bias = nn.Parameter(torch.zeros(out_channels))
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        outer = taps.outer(taps)[None, None] / taps.sum() ** 2
        self.register_buffer("resample_filter", outer if up or down else None)
        self.resample_taps = list(resample_filter)

    def _resample_up(self, x: Tensor, padding: int) -> Tensor:
        assert self.resample_filter is not None
        if self.resample_taps == [1, 1] and padding == 0:  # the box filter: nearest neighbor
            return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        taps = (4 * self.resample_filter).to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return conv_transpose2d(x, taps, stride=2, padding=padding, groups=x.shape[1])

    def _resample_down(self, x: Tensor, padding: int) -> Tensor:
        assert self.resample_filter is not None
        if self.resample_taps == [1, 1] and padding == 0:  # the box filter: mean of 2x2
            return nn.functional.avg_pool2d(x, 2)
        taps = self.resample_filter.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return conv2d(x, taps, stride=2, padding=padding, groups=x.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype, memory_format=self.weight_format)
        bias = cast(self.bias, x)
        weight_pad = self.kernel // 2
        filter_pad = (len(self.resample_taps) - 1) // 2
        if self.fused_resample and self.up and weight is not None:
            x = self._resample_up(x, max(filter_pad - weight_pad, 0))
            return conv2d(x, weight, bias, padding=max(weight_pad - filter_pad, 0))
        if self.fused_resample and self.down and weight is not None:
            x = conv2d(x, weight, padding=weight_pad + filter_pad)
            x = self._resample_down(x, 0)
            return x if bias is None else x + bias[:, None, None]
        if self.up:
            x = self._resample_up(x, filter_pad)
        if self.down:
            x = self._resample_down(x, filter_pad)
        return x if weight is None else conv2d(x, weight, bias, padding=weight_pad)


class GroupNorm(nn.Module):
    """Group normalization with min(32, C // 4) groups."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Dropout(nn.Module):
    """Dropout whose mask may come from outside.

    ``keep_mask``, when set, returns bool [B, *shape] for the ``shape`` that it is given (``key_dropout``). Unset, torch's own
    generator is used.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keep_mask: Callable[[Sequence[int]], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.keep_mask is None:
            return dropout(x, self.p)
        return x * (self.keep_mask(x.shape[1:]).to(x.dtype) / (1 - self.p))


def key_dropout(network: nn.Module, draws: DrawSource, phase: str, indices: Tensor) -> None:
    """Give each dropout layer masks drawn by (phase, layer, image index) for its next forwards; ``indices`` int64 [B].

    So they belong to the image and not to the process. torch's own generator starts from a random seed in every process and is in
    no checkpoint: training never uses it.
    """
    for name, module in network.named_modules():
        if isinstance(module, Dropout) and module.p > 0:
            module.keep_mask = partial(draws.keep, f"{phase}/dropout/{name}", indices, p=module.p)


def attend(qkv: Tensor, heads: int, scaled: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Self-attention over positions: [B, 3C, H, W] -> [B, C, H, W].

    The channels of ``qkv`` are laid out [head, channel of the head, (q, k, v)]; ``scaled`` is applied to them in the layout
    [B, heads, C, (q, k, v), HW].

    Off the CPU one copy lays q, k and v out with the channels last: fused kernels refuse anything else, and torch then falls back,
    silently, to one that writes the whole matrix of scores. On the CPU that one stays: the fused one rounds otherwise, which Adam's
    first steps turn into 2e-4 in single weights of the golden trajectories. The meta device, which counts what GPUs need, takes
    a kernel of theirs.
    """
    batch, channels, height, width = qkv.shape
    split = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)
    stacked = (split if scaled is None else scaled(split)).permute(3, 0, 1, 4, 2)  # [3, B, heads, HW, C]
    query, key, value = (stacked if stacked.is_cpu else stacked.contiguous()).unbind(0)
    if stacked.is_meta:
        attended = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    else:
        attended = scaled_dot_product_attention(query, key, value)
    return attended.transpose(-1, -2).reshape(batch, channels // 3, height, width)


class UNetBlock(nn.Module):
    """Residual block with noise embedding, optional resampling and self-attention (EDM paper, appendix F).

    ``emb`` is [B, emb_channels]. ``adaptive_scale`` injects a scale and a shift (ADM), else a shift alone (DDPM++).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[int] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        self.skip_scale, self.adaptive_scale = skip_scale, adaptive_scale
        self.num_heads = 0
        if attention:
            self.num_heads = out_channels // channels_per_head if num_heads is None else num_heads
        conv = partial(Conv2d, in_channels, out_channels, up=up, down=down, resample_filter=resample_filter)
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = conv(kernel=3)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps)
        self.dropout = Dropout(dropout)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=0.0)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = conv(kernel=kernel)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1)
            self.proj = Conv2d(out_channels, out_channels, 1, gain=0.0)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        residual = self.conv0(silu(self.norm0(x)))
        injected = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.adaptive_scale:
            scale, shift = injected.chunk(2, dim=1)
            residual = silu(torch.addcmul(shift, self.norm1(residual), scale + 1))
        else:
            residual = silu(self.norm1(residual + injected))
        residual = self.conv1(self.dropout(residual))
        x = (residual + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.num_heads:
            attended = self.proj(attend(self.qkv(self.norm2(x)), self.num_heads))
            x = (attended + x) * self.skip_scale
        return x


class PositionalEmbedding(nn.Module):
    """[B] -> [B, channels]: cosines, then sines, at geometric frequencies from 1 to 1/10,000 (``endpoint``: 1/10,000 included)."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        self.channels, self.endpoint = channels, endpoint

    def forward(self, noise: Tensor) -> Tensor:
        half = self.channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=noise.device) / (half - int(self.endpoint))
        angles = noise.outer(((1 / 10000) ** exponents).to(noise.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[B] -> [B, channels]: cosines, then sines, at fixed random frequencies (NCSN++)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise.outer((2 * torch.pi * self.freqs).to(noise.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)
