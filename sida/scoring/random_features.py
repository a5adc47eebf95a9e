"""Features of a fixed random network, for pictures without a suitable pretrained network: ``fd_random``, never FID.

Random convolutional features tell distributions apart where a network trained on photographs of objects knows nothing of the
pictures (Naeem et al., "Reliable Fidelity and Diversity Metrics", ICML 2020, section 4.2). They see color, texture and coarse
layout; they know no objects. Numbers compare models at one resolution with one another, and with nothing published.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from sida.errors import UserError
from sida.numerics.draws import Draws
from sida.numerics.quantize import from_uint8

WIDTHS = (24, 48, 96)  # of the layers; each halves the resolution
FEATURES = sum(WIDTHS) * 2
_GAIN = 1.7


class RandomFeatures(nn.Module):
    """uint8 images [B, C, H, W], H and W of 8 or more -> float32 [B, 336]: mean and deviation of each filter's answer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        sides = (channels, *WIDTHS)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, bias=False) for before, after in pairwise(sides))

    def forward(self, images: Tensor) -> Tensor:
        x = from_uint8(images)
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")), 0.2)
            x = nn.functional.avg_pool2d(x, 2)
            flat = x.flatten(2)
            features += [flat.mean(2), flat.var(2, correction=0).add(1e-6).sqrt()]
        return torch.cat(features, dim=1)

    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raise UserError: there are no probabilities."""
        raise UserError("metric is: the random detector knows no classes: take `is` out of evaluation.extra_metrics")


def random_features(channels: int) -> RandomFeatures:
    """Return the network: uniform weights from this project's own counter-based draws, the same bits on every machine."""
    detector, draws = RandomFeatures(channels), Draws(0)
    for number, layer in enumerate(detector.layers):
        shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
        fan_in = shape[1] * 9
        uniform = draws.uniform(f"random features {number}", torch.arange(shape[0]), shape[1:]) * 2 - 1
        layer.weight = nn.Parameter(uniform * (_GAIN * (3 / fan_in) ** 0.5), requires_grad=False)
    return detector.eval()


def write_random_features(path: Path, channels: int) -> None:
    """Write the network as safetensors; equal arguments give equal bytes."""
    from safetensors.torch import save_file

    header = {"detector": json.dumps({"kind": "random", "seed": 0})}
    save_file({name: t.contiguous() for name, t in random_features(channels).state_dict().items()}, path, header)
