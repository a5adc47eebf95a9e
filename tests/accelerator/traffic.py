"""What operators ask of the accelerator: kernels launched, and bytes that travel between it and its memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sida.numerics.draws import Draws
from tests.accelerator.device import NAME


class Traffic(TorchDispatchMode):
    """Kernels launched while it is on, and the bytes of all tensors that they read and write, each tensor once a kernel.

    Operators that only look at a tensor in another way are none; one for a list of tensors counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace != "prim" and any(t.device.type == NAME for t in _tensors([made])):
            read = {id(tensor): tensor for tensor in _tensors((*args, *(kwargs or {}).values()))}
            self.kernels.append(func._schema.name)
            self.bytes += sum(map(_bytes, [*read.values(), *_tensors([made])]))
        return made


class CountedDraws(Draws):
    """Draws that know what they cost: every one's traffic, and elements and traffic of each mask."""

    def __init__(self) -> None:
        super().__init__(0)
        self.all: list[Traffic] = []
        self.masks: list[tuple[int, Traffic]] = []

    @contextmanager
    def _costing(self) -> Iterator[Traffic]:
        with Traffic() as traffic:
            yield traffic
        self.all.append(traffic)

    def keep(self, purpose: str, indices: Tensor, shape: Sequence[int], p: float) -> Tensor:
        with self._costing() as traffic:
            made = super().keep(purpose, indices, shape, p)
        self.masks.append((made.numel(), traffic))
        return made

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        with self._costing():
            return super().uniform(purpose, indices, shape, dtype)

    def normal(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        with self._costing():
            return super().normal(purpose, indices, shape, dtype)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _bytes(tensor: Tensor) -> int:
    """What is in memory of it: an expanded dimension is there once."""
    there = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(there) * tensor.element_size()
