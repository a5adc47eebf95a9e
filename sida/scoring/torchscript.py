"""The published Inception network as TorchScript: the one downloaded file that may hold code, hence loaded at a known digest only.

NVIDIA's ``inception-2015-12-05.pt`` (stylegan2-ada-pytorch; the file that clean-fid and SiD use) is the TensorFlow network of
2015-12-05 with its own resize: ``forward(images, return_features, use_fp16, no_output_bias)``. Float32 throughout.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sida.errors import UserError
from sida.printing import one_line
from sida.scoring.detector_file import INCEPTION_SHA256, where_to_get_it
from sida.settings import settings

_AGREE = 1e-5  # of probabilities computed from the features against the network's own


class TorchScriptDetector(nn.Module):
    """uint8 images [B, 1 or 3, H, W] -> features float32 [B, F], and class probabilities without the output's bias."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.script = script.eval()
        weights = dict(script.named_parameters()) | dict(script.named_buffers())
        self._head: Tensor | None = weights.get("output.weight")
        self._head_is_right = False  # not known before the first images

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [B, F]."""
        features = self.script(three_channels(images), return_features=True)
        return features.flatten(1).to(torch.float32)

    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and probabilities [B, classes] of the same images.

        One pass where the head is a plain matrix, as in the published file; what it gives is compared with the network's own
        answer once, and a network that answers otherwise is asked twice.
        """
        features, head = self.forward(images), self._head
        if head is not None and head.shape[1] == features.shape[1]:
            probabilities = torch.softmax(features @ head.to(features.device).T.to(torch.float32), dim=1)
            if not self._head_is_right:
                own = self._own_probabilities(images[:2])
                same = own.shape == probabilities[:2].shape
                self._head_is_right = same and bool((own - probabilities[:2]).abs().max() < _AGREE)
            if self._head_is_right:
                return features, probabilities
        self._head = None
        return features, self._own_probabilities(images)

    def _own_probabilities(self, images: Tensor) -> Tensor:
        return self.script(three_channels(images), no_output_bias=True).flatten(1).to(torch.float32)


def three_channels(images: Tensor) -> Tensor:
    """Repeat gray images to three channels."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def trusted_bytes(path: Path) -> bytes:
    """Return the content of a TorchScript file that may run: its sha256 is pinned, or trusted by the user."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"detector {path}: {error.strerror}: {where_to_get_it()}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != INCEPTION_SHA256 and digest not in settings().trusted_detectors:
        raise UserError(
            f"detector {one_line(str(path), 80)} holds code, and is not the published Inception ({INCEPTION_SHA256[:12]}...): to "
            f"run it all the same, add --trust-detector {digest} (or SIDA_TRUST_DETECTOR)"
        )
    return content


def load_torchscript(path: Path) -> TorchScriptDetector:
    """Return the detector in a TorchScript file, frozen; nothing in it runs unless its sha256 is pinned or trusted.

    The bytes that are hashed are the bytes that are loaded. Raises UserError for another digest, or a file that is none.
    """
    content = trusted_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its own format old
            script = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = one_line(str(error), 200)
        raise UserError(f"detector {path}: not a TorchScript file ({reason}): {where_to_get_it()}") from error
    return TorchScriptDetector(script).requires_grad_(False)
