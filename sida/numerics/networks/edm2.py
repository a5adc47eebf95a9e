"""EDM2's magnitude-preserving UNet and its preconditioner (Karras et al., arXiv 2312.02696, config G), published names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sida.numerics.networks.magnitude import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.networks.trunk import Trunk


class UNet(Trunk):
    """The trunk F: a channel of ones is appended to its input in place of biases."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        channels_per_head: int = 64,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim)
        widths = [model_channels * mult for mult in channel_mult]
        emb_channels = model_channels * channel_mult_emb if channel_mult_emb else max(widths)
        block = partial(Block, emb_channels=emb_channels, dropout=dropout, channels_per_head=channels_per_head)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(widths[0])
        self.emb_noise = MPConv(widths[0], emb_channels)
        self.emb_label = MPConv(label_dim, emb_channels) if label_dim else None

        self.add_levels(
            img_channels + 1,
            widths[0],
            widths,
            num_blocks,
            attn_resolutions,
            conv=partial(MPConv, kernel=(3, 3)),
            encoder=partial(block, flavor="enc"),
            decoder=partial(block, flavor="dec"),
        )
        self.out_conv = MPConv(widths[0], img_channels, (3, 3))

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            if labels is None:
                labels = noise.new_zeros(1, self.label_dim)
            emb = mp_sum(emb, self.emb_label(labels.to(emb.dtype) * self.label_dim**0.5))
        return mp_silu(emb)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        return super().encode(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), emb)

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        return mp_cat(x, skip)

    def out(self, x: Tensor) -> Tensor:
        return self.out_conv(x, gain=self.out_gain)


class EDM2Precond(Denoiser):
    """The denoiser around ``unet``, with the uncertainty u(sigma) of EDM2's equation 14.

    ``logvar_channels`` None leaves that head out (SiDA's generators have none). Augmentation labels are not known to EDM2.
    """

    def __init__(self, unet: UNet, logvar_channels: int | None) -> None:
        super().__init__(unet)
        self.unet = unet
        self.logvar_fourier = MPFourier(logvar_channels) if logvar_channels else None
        self.logvar_linear = MPConv(logvar_channels, 1) if logvar_channels else None

    @property
    def trunk(self) -> UNet:
        return self.unet

    def drop_logvar(self) -> None:
        """Remove the head of u(sigma)."""
        self.logvar_fourier = self.logvar_linear = None

    def logvar(self, sigma: Tensor) -> Tensor | None:
        """u(sigma) [B, 1, 1, 1]; None without the head."""
        if self.logvar_fourier is None or self.logvar_linear is None:
            return None
        c_noise = sigma.flatten().log() / 4
        return self.logvar_linear(self.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
