"""SongUNet: DDPM++ and NCSN++ (EDM paper, arXiv 2206.00364, table 7), with the published parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from sida.numerics.networks.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock


class SongUNet(nn.Module):
    """The trunk F of a DDPM++ (positional, standard) or NCSN++ (fourier, residual) denoiser."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        if embedding_type not in ("positional", "fourier") or encoder_type not in ("standard", "residual"):
            raise ValueError(f"SongUNet: no embedding {embedding_type!r} with encoder {encoder_type!r}")
        if decoder_type != "standard":
            raise ValueError(f"SongUNet: decoder_type {decoder_type!r}, only 'standard' is known")
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        block: dict[str, Any] = {
            "emb_channels": emb_channels,
            "num_heads": 1,
            "dropout": dropout,
            "skip_scale": 0.5**0.5,
            "eps": 1e-6,
            "resample_filter": resample_filter,
            "resample_proj": True,
            "adaptive_scale": False,
        }
        positional = embedding_type == "positional"
        self.map_noise = (
            PositionalEmbedding(noise_channels, endpoint=True) if positional else FourierEmbedding(noise_channels)
        )
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        # Encoder: a convolution, then blocks; each level halves the resolution.
        self.enc = nn.ModuleDict()
        channels, residual_channels = in_channels, in_channels
        skip_channels: list[int] = []
        for level, mult in enumerate(channel_mult):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(channels, model_channels, 3)
                channels = model_channels
            else:
                self.enc[f"{name}_down"] = UNetBlock(channels, channels, down=True, **block)
                if encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = Conv2d(
                        residual_channels, channels, 3, down=True, resample_filter=resample_filter, fused_resample=True
                    )
                    residual_channels = channels
            skip_channels.append(channels)
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = UNetBlock(
                    channels,
                    model_channels * mult,
                    attention=attention,
                    **block,
                )
                channels = model_channels * mult
                skip_channels.append(channels)

        # Decoder: one block more per level, each fed one activation of the encoder.
        self.dec = nn.ModuleDict()
        for level, mult in reversed(list(enumerate(channel_mult))):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == len(channel_mult) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(channels, channels, attention=True, **block)
                self.dec[f"{name}_in1"] = UNetBlock(channels, channels, **block)
            else:
                self.dec[f"{name}_up"] = UNetBlock(channels, channels, up=True, **block)
            for index in range(num_blocks + 1):
                attention = index == num_blocks and resolution in attn_resolutions
                self.dec[f"{name}_block{index}"] = UNetBlock(
                    channels + skip_channels.pop(),
                    model_channels * mult,
                    attention=attention,
                    **block,
                )
                channels = model_channels * mult
        self.dec[f"{name}_aux_norm"] = GroupNorm(channels, eps=1e-6)
        self.dec[f"{name}_aux_conv"] = Conv2d(channels, out_channels, 3, gain=0.0)

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """c_noise [B], labels [B, label_dim] and augmentation labels [B, augment_dim] -> embedding [B, emb_channels]."""
        emb = self.map_noise(noise)
        emb = torch.cat(emb.chunk(2, dim=1)[::-1], dim=1)  # the published weights expect sines first
        if self.map_label is not None:  # it has a bias, so that no labels are zeros and not nothing
            labels = emb.new_zeros(1, self.map_label.in_features) if labels is None else labels
            emb = emb + self.map_label(labels.to(emb.dtype) * self.map_label.in_features**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        return silu(self.map_layer1(silu(self.map_layer0(emb))))

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Return all encoder activations that the decoder reads; the last is the discriminator's input."""
        skips: list[Tensor] = []
        residual = x
        for name, module in self.enc.items():
            if "aux_residual" in name:
                residual = (x + module(residual)) * 0.5**0.5
                skips[-1] = x = residual
                continue
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Encoder activations -> F's output [B, out_channels, H, W]."""
        skips = list(skips)
        x = skips[-1]
        for name, module in self.dec.items():
            if isinstance(module, UNetBlock):
                x = module(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
            elif isinstance(module, GroupNorm):
                x = silu(module(x))
            else:
                x = module(x)
        return x
