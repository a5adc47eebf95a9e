"""Memory of a device, counted as operators take it and give it back: bytes of tensors, each storage once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sida.training.iteration import Distillation


class Held(TorchDispatchMode):
    """While it is on, ``now`` and ``peak``: bytes of the device's tensors that operators made, and of those ``add`` was told.

    Workspaces inside an operator are not seen. Tensors need not hold numbers: the meta device and FakeTensorMode do.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._device = device.type
        self._storages: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result if isinstance(result, list | tuple) else [result])
        return result

    def add(self, values: Iterable[Any]) -> None:
        """Count the tensors among them."""
        for value in values:
            if isinstance(value, Tensor) and value.device.type == self._device:
                self._take(value.untyped_storage())

    def _take(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._give_back(key))
            self._sizes[key] = 0
            self.resized(storage)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that is known by its size now, which no operator tells."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            self.now += size - self._sizes[key]
            self._sizes[key] = size
            self.peak = max(self.peak, self.now)

    def _give_back(self, key: int) -> None:
        del self._storages[key]
        self.now -= self._sizes.pop(key)


def phase_bytes(job: Distillation, seen: int, device: torch.device) -> dict[str, int]:
    """Most bytes that phases A and B hold in one of several rounds, beyond networks, their gradients and Adam's moments.

    Each phase is run once, with the job's micro-batch; A last, so that what the frozen teacher keeps of B is there too.
    """
    networks = job.networks
    most = {"A": 0, "B": 0}
    with Held(device) as held:
        for network in networks:
            held.add((*network.parameters(), *network.buffers()))
        states = held.now
        for name, phase, trained in (
            ("B", job.update_generator, networks.theta),
            ("A", job.update_fake_score, networks.psi),
        ):
            before = held.now
            accumulate(trained)  # beside whatever the other phase has left
            gradients, moments, held.peak = held.now - before, _moments(job), held.now
            phase(seen)
            most[name] = held.peak - states - gradients - moments
    return most


def _moments(job: Distillation) -> int:
    """Bytes of Adam's state, which is there once a step was taken."""
    states = (state for updates in (job.psi_updates, job.theta_updates) for state in updates.adam.state.values())
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))


def accumulate(network: nn.Module) -> None:
    """Give the network gradients of zero, as if a round had passed."""
    network.requires_grad_(True)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
