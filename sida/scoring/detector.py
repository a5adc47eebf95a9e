"""The feature network that images are compared with: the published Inception (``torchscript.py``), DINOv2, or the digits' own.

``digits``: a small classifier of 8x8 digits whose 64 penultimate activations give ``fd_digits``. It is not Inception, and its
distance is never called FID; nor are those of ``random`` features (``random_features.py``) and of ``dinov2`` (``dinov2.py``).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sida.errors import UserError
from sida.foreign.archives import opened_zip
from sida.foreign.boundary import reading
from sida.foreign.limits import Budget
from sida.numerics.draws import Draws
from sida.numerics.quantize import from_uint8
from sida.scoring.dinov2 import is_dinov2, load_dinov2
from sida.scoring.random_features import RandomFeatures
from sida.scoring.torchscript import load_torchscript


class Detector(Protocol):
    """uint8 images [B, C, H, W] -> float32 features [B, F], and class probabilities [B, classes] where they are asked for."""

    def __call__(self, images: Tensor) -> Tensor: ...

    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and softmax of the logits without the output's bias, as the Inception Score takes them."""

    def to(self, device: Any) -> Any: ...


class DigitsDetector(nn.Module):
    """uint8 images [B, 1, 8, 8] -> features float32 [B, 64]; ``classify`` gives the 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv1 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.output = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = from_uint8(images)
        x = torch.relu(self.conv0(x))
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(nn.functional.max_pool2d(x, 2)))
        return torch.relu(self.hidden(x.flatten(1)))

    def classify(self, images: Tensor) -> Tensor:
        """Class logits [B, 10]."""
        return self.output(self.forward(images))

    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 64], and the softmax of the logits without their bias [B, 10]."""
        features = self.forward(images)
        return features, torch.softmax(features @ self.output.weight.T, dim=1)


def load_detector(path: Path) -> Detector:
    """Return the detector in a file, frozen: TorchScript at a known digest, DINOv2's weights, or the digits' or random features.

    Raises UserError when the file is neither, or untrusted TorchScript.
    """
    if is_torchscript(path):
        return load_torchscript(path)
    if holds_dinov2(path):
        return load_dinov2(path)
    from safetensors.torch import load_file

    with reading(str(path), path, "not a detector"):
        tensors = load_file(path)
        first = tensors.get("layers.0.weight")
        if first is not None and tuple(first.shape[1:]) not in ((1, 3, 3), (3, 3, 3)):
            raise ValueError(f"its first layer is {list(first.shape)}")
        detector = DigitsDetector() if first is None else RandomFeatures(channels=first.shape[1])
        detector.load_state_dict(tensors)
    return detector.eval().requires_grad_(False)


def is_torchscript(path: Path) -> bool:
    """Return whether a file may be TorchScript: a zip archive that is not what torch.save makes of tensors."""
    if not _is_zip(path):
        return False
    try:
        with opened_zip(path, Budget(path.stat().st_size), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # libraries raise whatever hostile bytes make them raise
        return True  # a damaged one is not looked into: its digest decides


def holds_dinov2(path: Path) -> bool:
    """Return whether a file is to be read as DINOv2's weights: what torch.save writes, or safetensors of these names."""
    if _is_zip(path):
        return not is_torchscript(path)
    from safetensors import safe_open

    with reading(str(path), path, "not a detector"), safe_open(path, framework="pt") as file:
        return is_dinov2(file.keys())


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: correct evaluation.detector") from error


def train_digits_detector(images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> tuple[DigitsDetector, float]:
    """Train on four fifths of the images; return the detector and its accuracy on the held-out fifth.

    images uint8 [N, 1, 8, 8], labels int64 [N]. Seeded: the same bits on the same machine and torch.
    """
    order = Draws(seed).permutation("detector split", len(images))
    held_out, training = order[: len(order) // 5], order[len(order) // 5 :]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = DigitsDetector()
        optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3, weight_decay=1e-2)
        steps = epochs * (len(training) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for _ in range(steps):
            batch = training[torch.randint(len(training), (64,))]
            shifted = _shift(images[batch])
            logits = detector.output(nn.functional.dropout(detector(shifted), 0.3))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    detector.eval().requires_grad_(False)
    accuracy = (detector.classify(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    return detector, accuracy


def _shift(images: Tensor) -> Tensor:
    """Move half of the batch by at most one pixel, as a mild augmentation."""
    half = len(images) // 2
    rows, columns = torch.randint(-1, 2, (2,)).tolist()
    moved = nn.functional.pad(images[:half], (1, 1, 1, 1))[:, :, 1 + rows : 9 + rows, 1 + columns : 9 + columns]
    return torch.cat([moved, images[half:]])
