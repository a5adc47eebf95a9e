"""SongUNet: DDPM++ and NCSN++ (EDM paper, arXiv 2206.00364, table 7), with the published parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import silu

from sida.numerics.networks.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from sida.numerics.networks.trunk import Trunk


class SongUNet(Trunk):
    """The trunk F of a DDPM++ (positional, standard) or NCSN++ (fourier, residual) denoiser."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
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
        super().__init__(img_resolution, img_channels, label_dim)
        if embedding_type not in ("positional", "fourier") or encoder_type not in ("standard", "residual"):
            raise ValueError(f"SongUNet: no embedding {embedding_type!r} with encoder {encoder_type!r}")
        if decoder_type != "standard":
            raise ValueError(f"SongUNet: decoder_type {decoder_type!r}, only 'standard' is known")
        widths = [model_channels * mult for mult in channel_mult]
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            num_heads=1,
            dropout=dropout,
            skip_scale=0.5**0.5,
            eps=1e-6,
            resample_filter=resample_filter,
            resample_proj=True,
            adaptive_scale=False,
        )
        residual = partial(Conv2d, kernel=3, down=True, resample_filter=resample_filter, fused_resample=True)
        positional = embedding_type == "positional"
        self.map_noise = (
            PositionalEmbedding(noise_channels, endpoint=True) if positional else FourierEmbedding(noise_channels)
        )
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.add_levels(
            img_channels,
            model_channels,
            widths,
            num_blocks,
            attn_resolutions,
            conv=partial(Conv2d, kernel=3),
            encoder=block,
            decoder=block,
            residual=residual if encoder_type == "residual" else None,
            attend_once=True,
        )
        self.aux = f"{img_resolution}x{img_resolution}_aux"
        self.dec[f"{self.aux}_norm"] = GroupNorm(widths[0], eps=1e-6)
        self.dec[f"{self.aux}_conv"] = Conv2d(widths[0], img_channels, 3, gain=0.0)

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise)
        emb = torch.cat(emb.chunk(2, dim=1)[::-1], dim=1)  # the published weights expect sines first
        if self.map_label is not None:  # it has a bias, so that no labels are zeros and not nothing
            labels = emb.new_zeros(1, self.label_dim) if labels is None else labels
            emb = emb + self.map_label(labels.to(emb.dtype) * self.label_dim**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        return silu(self.map_layer1(silu(self.map_layer0(emb))))

    def out(self, x: Tensor) -> Tensor:
        return self.dec[f"{self.aux}_conv"](silu(self.dec[f"{self.aux}_norm"](x)))
