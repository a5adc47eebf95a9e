"""EDM's preconditioned denoiser (arXiv 2206.00364, equation 7 and table 1) around a trunk with an encoder and a decoder.

The fake score's encoder is also SiDA's discriminator: the logit map is the channel mean of the last encoder activation.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from sida.numerics.networks.trunk import Trunk
from sida.numerics.schedules import SIGMA_DATA


class Denoiser(nn.Module):
    """D = c_skip x + c_out F(c_in x, c_noise, c) around a trunk F: image, logits, or both in one pass.

    ``forward(x, sigma, labels, augment_labels, want)``: x float32 [B, C, H, W] = clean + sigma * noise; sigma a number or [B];
    labels one-hot [B, label_dim] or None (zeros); augment_labels [B, 9] or None (zeros). "image" gives D(x; sigma) [B, C, H, W],
    "logits" the discriminator's map [B, 1, h, w] without running the decoder, "both" the pair. All float32.
    """

    precision: str = "float32"
    working_dtype: torch.dtype = torch.float32

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.img_resolution, self.img_channels = trunk.img_resolution, trunk.img_channels
        self.label_dim = trunk.label_dim

    @property
    def trunk(self) -> Trunk:
        """F, which each preconditioner keeps under its published name."""
        raise NotImplementedError

    def compute_in(self, precision: str) -> None:
        """Set the dtype of inner tensors (weights stay as they are): float32, float16 or bfloat16; tf32 is float32 too.

        That a GPU may then round its products is for the caller to allow, around forward and backward pass.
        """
        self.precision = precision
        self.working_dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)

    @overload
    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Tensor | None = ...,
        augment_labels: Tensor | None = ...,
        want: Literal["image", "logits"] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Tensor | None = ...,
        augment_labels: Tensor | None = ...,
        *,
        want: Literal["both"],
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        want: Literal["image", "logits", "both"] = "image",
    ) -> Tensor | tuple[Tensor, Tensor]:
        column = sigma_column(sigma, x)
        x = x.to(column.dtype)
        c_skip, c_out, c_in, c_noise = edm_coefficients(column)
        working = x.dtype if self.working_dtype == torch.float32 else self.working_dtype
        emb = self.trunk.embed(
            c_noise.flatten(), labels, augment_labels
        )  # in float32: cheap, and small frequencies matter
        skips = self.trunk.encode((c_in * x).to(working), emb)
        if want == "logits":
            return skips[-1].mean(dim=1, keepdim=True).to(x.dtype)
        image = c_skip * x + c_out * self.trunk.decode(skips, emb).to(x.dtype)
        if want == "image":
            return image
        return image, skips[-1].mean(dim=1, keepdim=True).to(x.dtype)

    def logvar(self, sigma: Tensor) -> Tensor | None:
        """EDM2's uncertainty u(sigma), [B, 1, 1, 1]; None for networks without that head."""
        return None

    def drop_logvar(self) -> None:
        """Remove that head, if there is one: a generator's is unused."""


def sigma_column(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Sigma as [B or 1, 1, 1, 1] in the preconditioner's dtype (float32, float64 for a float64 image)."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(sigma, Tensor):
        return x.new_full((1, 1, 1, 1), sigma, dtype=dtype)
    return sigma.to(dtype=dtype, device=x.device).reshape(-1, 1, 1, 1)


def edm_coefficients(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of EDM's table 1, each in sigma's shape."""
    variance = sigma**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / variance, sigma * SIGMA_DATA / variance.sqrt(), 1 / variance.sqrt(), sigma.log() / 4


class EDMPrecond(Denoiser):
    """The denoiser around ``model``, a SongUNet or DhariwalUNet."""

    def __init__(self, model: Trunk) -> None:
        super().__init__(model)
        self.model = model

    @property
    def trunk(self) -> Trunk:
        return self.model
