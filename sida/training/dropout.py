"""Dropout masks that belong to the image and the layer, not to the process."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sida.numerics.draws import DrawSource
from sida.numerics.networks.layers import Dropout
from sida.numerics.networks.precondition import Denoiser


def key_dropout(network: Denoiser, draws: DrawSource, phase: str, indices: Tensor) -> None:
    """Give each dropout layer masks drawn by (phase, layer, image index) for its next forwards; ``indices`` int64 [B].

    torch's own generator starts from a random seed in every process and is in no checkpoint: training never uses it.
    """
    for name, module in network.named_modules():
        if isinstance(module, Dropout) and module.p > 0:
            module.keep_mask = partial(_keep, draws, f"{phase}/dropout/{name}", indices, module.p)


def _keep(draws: DrawSource, purpose: str, indices: Tensor, p: float, shape: torch.Size) -> Tensor:
    return draws.keep(purpose, indices, shape[1:], p)
