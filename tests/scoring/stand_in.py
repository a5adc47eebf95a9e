"""A tiny TorchScript detector with the published Inception's interface: its own resize, features, softmax without the bias."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

FEATURES, CLASSES = 16, 5


class StandIn(nn.Module):
    """uint8 or float images [B, 3, H, W] in 0..255 -> features [B, 16], or class probabilities [B, 5]."""

    def __init__(self, features: int = FEATURES, plain_head: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, features, 3, 2), nn.ReLU())
        self.output = nn.Linear(features, CLASSES)
        self.plain_head = plain_head

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = nn.functional.interpolate(img.to(torch.float32), [15, 15], mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128).mean(dim=[2, 3])
        if return_features:
            return features
        logits = nn.functional.linear(features, self.output.weight)
        if not self.plain_head:
            logits = logits * 2
        if not no_output_bias:
            logits = logits + self.output.bias
        return torch.softmax(logits, dim=1)


def write_stand_in(
    path: Path, *, seed: int = 0, features: int = FEATURES, plain_head: bool = True, gain: float = 1.0
) -> Path:
    """Save the scripted detector; another seed is another detector, and a gain of its weights tells images apart more clearly."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        detector = StandIn(features, plain_head).eval()
        for parameter in detector.parameters():
            parameter *= gain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own format old
        torch.jit.script(detector).save(str(path))
    return path
