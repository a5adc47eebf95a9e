"""EDM2's magnitude-preserving UNet and its preconditioner (Karras et al., arXiv 2312.02696, config G), published names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sida.numerics.networks.magnitude import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from sida.numerics.networks.precondition import SIGMA_DATA, Denoiser, edm_coefficients, sigma_column


class UNet(nn.Module):
    """The trunk F: a channel of ones is appended to its input in place of biases."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        dropout: float = 0.0,
        channels_per_head: int = 64,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        widths = [model_channels * mult for mult in channel_mult]
        noise_channels = model_channels * channel_mult_noise if channel_mult_noise else widths[0]
        emb_channels = model_channels * channel_mult_emb if channel_mult_emb else max(widths)
        block = partial(
            Block,
            emb_channels=emb_channels,
            dropout=dropout,
            channels_per_head=channels_per_head,
            res_balance=res_balance,
            attn_balance=attn_balance,
            clip_act=clip_act,
            resample_filter=resample_filter,
        )
        self.label_dim, self.label_balance, self.concat_balance = label_dim, label_balance, concat_balance
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels)
        self.emb_label = MPConv(label_dim, emb_channels) if label_dim else None

        # Encoder: a convolution, then blocks; each level halves the resolution.
        self.enc = nn.ModuleDict()
        channels = img_channels + 1
        skip_channels: list[int] = []
        for level, width in enumerate(widths):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(channels, width, (3, 3))
                channels = width
            else:
                self.enc[f"{name}_down"] = block(channels, channels, flavor="enc", resample_mode="down")
            skip_channels.append(channels)
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = block(channels, width, flavor="enc", attention=attention)
                channels = width
                skip_channels.append(channels)

        # Decoder: one block more per level, each fed one activation of the encoder.
        self.dec = nn.ModuleDict()
        for level, width in reversed(list(enumerate(widths))):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = block(channels, channels, flavor="dec", attention=True)
                self.dec[f"{name}_in1"] = block(channels, channels, flavor="dec")
            else:
                self.dec[f"{name}_up"] = block(channels, channels, flavor="dec", resample_mode="up")
            for index in range(num_blocks + 1):
                inputs = channels + skip_channels.pop()
                attention = resolution in attn_resolutions
                self.dec[f"{name}_block{index}"] = block(inputs, width, flavor="dec", attention=attention)
                channels = width
        self.out_conv = MPConv(channels, img_channels, (3, 3))

    def embed(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """c_noise [B or 1] and labels [B, label_dim] (None: zeros) -> embedding [B or 1, emb_channels]."""
        emb = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            if labels is None:
                labels = noise.new_zeros(1, self.label_dim)
            emb = mp_sum(emb, self.emb_label(labels.to(emb.dtype) * self.label_dim**0.5), self.label_balance)
        return mp_silu(emb)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Return all encoder activations that the decoder reads; the last is the discriminator's input."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Encoder activations -> F's output [B, img_channels, H, W]."""
        skips = list(skips)
        x = skips[-1]
        for name, module in self.dec.items():
            x = module(mp_cat(x, skips.pop(), self.concat_balance) if "_block" in name else x, emb)
        return self.out_conv(x, gain=self.out_gain)


class EDM2Precond(Denoiser):
    """D = c_skip x + c_out F(c_in x, c_noise, c) around ``unet``, with the uncertainty u(sigma) of EDM2's equation 14.

    ``logvar_channels`` None leaves that head out (SiDA's generators have none). Augmentation labels are not known to EDM2.
    """

    def __init__(
        self,
        unet: UNet,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        logvar_channels: int | None = 128,
        sigma_data: float = SIGMA_DATA,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_data = sigma_data
        self.unet = unet
        self.logvar_fourier = MPFourier(logvar_channels) if logvar_channels else None
        self.logvar_linear = MPConv(logvar_channels, 1) if logvar_channels else None

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        want: Literal["image", "logits", "both"] = "image",
    ) -> Tensor | tuple[Tensor, Tensor]:
        column = sigma_column(sigma, x)
        x = x.to(column.dtype)
        c_skip, c_out, c_in, c_noise = edm_coefficients(column, self.sigma_data)
        working = x.dtype if self.working_dtype == torch.float32 else self.working_dtype
        emb = self.unet.embed(c_noise.flatten(), labels)  # stays in float32: cheap, and small frequencies matter
        skips = self.unet.encode((c_in * x).to(working), emb)
        if want == "logits":
            return skips[-1].mean(dim=1, keepdim=True).to(x.dtype)
        image = c_skip * x + c_out * self.unet.decode(skips, emb).to(x.dtype)
        if want == "image":
            return image
        return image, skips[-1].mean(dim=1, keepdim=True).to(x.dtype)

    def drop_logvar(self) -> None:
        """Remove the head of u(sigma)."""
        self.logvar_fourier = self.logvar_linear = None

    def logvar(self, sigma: Tensor) -> Tensor | None:
        """u(sigma) [B, 1, 1, 1]; None without the head."""
        if self.logvar_fourier is None or self.logvar_linear is None:
            return None
        c_noise = sigma.flatten().log() / 4
        return self.logvar_linear(self.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
