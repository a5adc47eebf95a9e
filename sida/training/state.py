"""The state of a training is the sum of its parts: each gives what it holds by name, and takes it back.

A tensor may be divided among processes (``sida.training.division``); in a checkpoint it is whole, and each process reads its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sida.training.division import local
from sida.training.stored import StoredTensors, own_part


class Stateful(Protocol):
    """A part of a training that a checkpoint holds: a network, an optimizer, a history."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and values fit for JSON, by name; all processes call it alike."""

    def load_state_dict(self, state: State, /) -> object:
        """Continue from what ``state_dict`` gave; tensors are read when they are asked for."""


Parts = Mapping[str, Stateful]


def state_of(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Values and tensors of all parts, by ``part/name``."""
    state = {f"{part}/{key}": value for part, it in parts.items() for key, value in it.state_dict().items()}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in state.items() if key not in tensors}, tensors


class State(Mapping[str, Any]):
    """Values and tensors whose names begin with ``prefix``, without it."""

    def __init__(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._values, self._tensors, self._prefix = values, tensors, prefix

    def __getitem__(self, name: str) -> Any:
        full = self.full_name(name)
        return self._tensors[full] if full in self._tensors else self._values[full]

    def __iter__(self) -> Iterator[str]:
        for names in (self._values, self._tensors):
            yield from (name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        full = self.full_name(str(name))
        return full in self._tensors or full in self._values

    def full_name(self, name: str) -> str:
        """The name in the checkpoint."""
        return self._prefix + name

    def under(self, prefix: str) -> State:
        """Those of them whose names begin with ``prefix``, without it."""
        return State(self._values, self._tensors, self.full_name(prefix))

    def part(self, name: str, like: Tensor) -> tuple[Tensor, torch.Size]:
        """What this process holds of a tensor that is divided as ``like``, and the shape of the whole.

        Raises ValueError where it is not there.
        """
        full = self.full_name(name)
        if full not in self._tensors:
            raise ValueError(f"tensor {full} is not there")
        found = own_part(self._tensors, full, like)
        if isinstance(self._tensors, StoredTensors):
            return found, self._tensors.shape(full)
        return found, self._tensors[full].shape


def load_state(parts: Parts, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Give each part its own state back. Raises ValueError for a tensor that is no part's, and what the parts raise."""
    for name in tensors:
        if not any(name.startswith(f"{part}/") for part in parts):
            raise ValueError(f"tensor {name} belongs to nothing that is trained here")
    state = State(values, tensors)
    for part, it in parts.items():
        if isinstance(it, nn.Module):
            assign_all(it.state_dict(), state.under(f"{part}/"))
        else:
            it.load_state_dict(state.under(f"{part}/"))


def assign_all(targets: Mapping[str, Tensor], state: State) -> None:
    """Fill each target with the tensor of its name. Raises ValueError naming one that is missing, unknown or of another kind."""
    for name in targets:
        if name not in state:
            raise ValueError(f"tensor {state.full_name(name)} is not there")
    for name in state:
        if name not in targets:
            raise ValueError(f"tensor {state.full_name(name)} belongs to nothing that is trained here")
    for name, target in targets.items():
        assign(target, state, name)


def assign(target: Tensor, state: State, name: str) -> Tensor:
    """Fill the target with the tensor of this name, and return it; into one that is divided, this process's rows alone are read.

    Raises ValueError naming a tensor that is missing, or of another shape or type.
    """
    found, shape = state.part(name, target)
    if (shape, found.dtype) != (target.shape, target.dtype):
        raise ValueError(
            f"tensor {state.full_name(name)} is {found.dtype} {list(shape)}, expected {target.dtype} {list(target.shape)}"
        )
    with torch.no_grad():
        local(target).copy_(found)
    return target


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names begin with ``prefix``, without it; tensors are read."""
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
