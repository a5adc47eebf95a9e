"""The state of a training is the sum of its parts: each gives what it holds by name, and takes it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Stateful(Protocol):
    """A part of a training that a checkpoint holds: a network, an optimizer, a history."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and values fit for JSON, by name; all processes call it alike."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continue from what ``state_dict`` gave."""


Parts = Mapping[str, Stateful]


def state_of(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Values and tensors of all parts, by ``part/name``."""
    state = {f"{part}/{key}": value for part, it in parts.items() for key, value in it.state_dict().items()}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in state.items() if key not in tensors}, tensors


def load_state(parts: Parts, state: Mapping[str, Any]) -> None:
    """Give each part its own state back."""
    for part, it in parts.items():
        it.load_state_dict(under(f"{part}/", state))


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
