"""What clean-fid and torch-fidelity take of torchvision, which needs a build that fits torch: made here where it is not installed.

Of its parts that are only imported, empty classes; they fetch or load things that no test asks for.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn


class ToTensor:
    """HWC numpy -> CHW tensor; uint8 becomes float32 in [0, 1]."""

    def __call__(self, pixels: np.ndarray) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return found.to(torch.float32) / 255 if found.dtype == torch.uint8 else found


class Compose:
    """One function after the other."""

    def __init__(self, parts: list[Callable[[Any], Any]]) -> None:
        self.parts = parts

    def __call__(self, value: Any) -> Any:
        for part in self.parts:
            value = part(value)
        return value


def pil_to_tensor(image: Image.Image) -> Tensor:
    """A picture in color -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it where `import torchvision` finds it, until the test ends; nothing where torchvision is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    inception = dict.fromkeys(("InceptionA", "InceptionC", "InceptionE"), nn.Module)
    contents: dict[str, dict[str, Any]] = {
        "torchvision": {"__version__": "0.0"},
        "torchvision.models": {"inception": types.SimpleNamespace(**inception)},
        "torchvision.datasets": dict.fromkeys(("CIFAR10", "CIFAR100", "STL10"), torch.utils.data.Dataset),
        "torchvision.transforms": {"ToTensor": ToTensor, "Compose": Compose},
        "torchvision.transforms.functional": {"pil_to_tensor": pil_to_tensor},
    }
    for name, parts in contents.items():
        module: Any = types.ModuleType(name)
        module.__dict__.update(parts)
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)
        monkeypatch.setitem(sys.modules, name, module)
