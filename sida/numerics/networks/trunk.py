"""The UNet that all architectures share: an encoder of levels, each half as large, and a decoder that reads its activations."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """F of a denoiser. A subclass makes its embedding's layers, then calls ``add_levels``."""

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim

    def add_levels(
        self,
        inputs: int,
        stem: int,
        widths: Sequence[int],
        num_blocks: int,
        attn_resolutions: Container[int],
        *,
        conv: Callable[[int, int], nn.Module],
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        residual: Callable[[int, int], nn.Module] | None = None,
        attend_once: bool = False,
    ) -> None:
        """Make ``enc`` and ``dec`` with the published names, each module by a function of its input and output channels.

        ``conv`` takes the image from ``inputs`` to ``stem`` channels; levels have ``widths``. ``residual`` brings the image to each
        smaller level (NCSN++). ``attend_once``: of a level's decoder blocks the last alone has attention.
        """
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels, image_channels = stem, inputs
        skip_channels: list[int] = []
        sizes = [self.img_resolution >> level for level in range(len(widths))]
        # Encoder: a convolution, then blocks; each level halves the resolution.
        for size, width in zip(sizes, widths, strict=True):
            name = f"{size}x{size}"
            if size == self.img_resolution:
                self.enc[f"{name}_conv"] = conv(inputs, stem)
            else:
                self.enc[f"{name}_down"] = encoder(channels, channels, down=True)
                if residual is not None:
                    self.enc[f"{name}_aux_residual"] = residual(image_channels, channels)
                    image_channels = channels
            skip_channels.append(channels)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = encoder(channels, width, attention=size in attn_resolutions)
                channels = width
                skip_channels.append(channels)
        # Decoder: one block more per level, each fed one activation of the encoder.
        for size, width in zip(reversed(sizes), reversed(widths), strict=True):
            name = f"{size}x{size}"
            if size == sizes[-1]:
                self.dec[f"{name}_in0"] = decoder(channels, channels, attention=True)
                self.dec[f"{name}_in1"] = decoder(channels, channels)
            else:
                self.dec[f"{name}_up"] = decoder(channels, channels, up=True)
            for index in range(num_blocks + 1):
                attention = size in attn_resolutions and (index == num_blocks or not attend_once)
                self.dec[f"{name}_block{index}"] = decoder(channels + skip_channels.pop(), width, attention=attention)
                channels = width

    def embed(self, noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """c_noise [B or 1], labels [B, label_dim], augmentation labels [B, augment_dim] -> embedding [B or 1, emb_channels].

        None stands for zeros.
        """
        raise NotImplementedError

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Return all encoder activations that the decoder reads; the last is the discriminator's input."""
        skips: list[Tensor] = []
        residual = x
        for name, module in self.enc.items():
            if "_aux_residual" in name:
                residual = (x + module(residual)) * 0.5**0.5
                skips[-1] = x = residual
                continue
            x = module(x) if "_conv" in name else module(x, emb)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Encoder activations -> F's output [B, img_channels, H, W]."""
        skips = list(skips)
        x = skips[-1]
        for name, module in self.dec.items():
            if "_aux" not in name:
                x = module(self.joined(x, skips.pop()) if "_block" in name else x, emb)
        return self.out(x)

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return a decoder block's input: the activation before it and one of the encoder."""
        return torch.cat([x, skip], dim=1)

    def out(self, x: Tensor) -> Tensor:
        """Turn the last block's activation [B, widths[0], H, W] into F's output."""
        raise NotImplementedError
