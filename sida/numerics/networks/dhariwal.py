"""DhariwalUNet: the ADM architecture (Dhariwal and Nichol, arXiv 2105.05233) as in EDM (arXiv 2206.00364, table 7).

Published parameter names; used for ImageNet 64x64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn.functional import silu

from sida.numerics.networks.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from sida.numerics.networks.trunk import Trunk


class DhariwalUNet(Trunk):
    """The trunk F of an ADM denoiser: scale and shift by the embedding, 64 channels per head, attention in encoder and decoder.

    A block with fewer than 64 channels has no heads, hence no attention.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim)
        widths = [model_channels * mult for mult in channel_mult]
        emb_channels = model_channels * channel_mult_emb
        block = partial(UNetBlock, emb_channels=emb_channels, channels_per_head=64, dropout=dropout)
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None
        conv = partial(Conv2d, kernel=3)
        self.add_levels(
            img_channels, widths[0], widths, num_blocks, attn_resolutions, conv=conv, encoder=block, decoder=block
        )
        self.out_norm = GroupNorm(widths[0])
        self.out_conv = Conv2d(widths[0], img_channels, 3, gain=0.0)

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb.dtype))
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels.to(emb.dtype))
        return silu(emb)

    def out(self, x: Tensor) -> Tensor:
        return self.out_conv(silu(self.out_norm(x)))
