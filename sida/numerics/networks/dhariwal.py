"""DhariwalUNet: the ADM architecture (Dhariwal and Nichol, arXiv 2105.05233) as in EDM (arXiv 2206.00364, table 7).

Published parameter names; used for ImageNet 64x64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from sida.numerics.networks.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock


class DhariwalUNet(nn.Module):
    """The trunk F of an ADM denoiser: scale and shift by the embedding, 64 channels per head, attention in encoder and decoder.

    A block with fewer than 64 channels has no heads, hence no attention.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        block = partial(UNetBlock, emb_channels=emb_channels, channels_per_head=64, dropout=dropout)
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None

        # Encoder: a convolution, then blocks; each level halves the resolution.
        self.enc = nn.ModuleDict()
        channels = in_channels
        skip_channels: list[int] = []
        for level, mult in enumerate(channel_mult):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(channels, model_channels * mult, 3)
                channels = model_channels * mult
            else:
                self.enc[f"{name}_down"] = block(channels, channels, down=True)
            skip_channels.append(channels)
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = block(channels, model_channels * mult, attention=attention)
                channels = model_channels * mult
                skip_channels.append(channels)

        # Decoder: one block more per level, each fed one activation of the encoder.
        self.dec = nn.ModuleDict()
        for level, mult in reversed(list(enumerate(channel_mult))):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == len(channel_mult) - 1:
                self.dec[f"{name}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{name}_in1"] = block(channels, channels)
            else:
                self.dec[f"{name}_up"] = block(channels, channels, up=True)
            for index in range(num_blocks + 1):
                inputs = channels + skip_channels.pop()
                attention = resolution in attn_resolutions
                self.dec[f"{name}_block{index}"] = block(inputs, model_channels * mult, attention=attention)
                channels = model_channels * mult
        self.out_norm = GroupNorm(channels)
        self.out_conv = Conv2d(channels, out_channels, 3, gain=0.0)

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """c_noise [B], labels [B, label_dim], augmentation labels [B, augment_dim] -> embedding [B, emb_channels]."""
        emb = self.map_noise(noise)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels.to(emb.dtype))
        return silu(emb)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Return all encoder activations that the decoder reads; the last is the discriminator's input."""
        skips: list[Tensor] = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Encoder activations -> F's output [B, out_channels, H, W]."""
        skips = list(skips)
        x = skips[-1]
        for name, module in self.dec.items():
            x = module(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        return self.out_conv(silu(self.out_norm(x)))
