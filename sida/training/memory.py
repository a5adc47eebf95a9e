"""Memory of one process's training, by part, as counted while it runs: bytes of tensors, each storage once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sida.training.iteration import Distillation


class SavedTensors:
    """Counts what autograd keeps for the backward pass; ``bytes`` is the sum.

    Parameters and buffers are left out. Use ``counting`` around one phase of an iteration of a single round.
    """

    def __init__(self, job: Distillation) -> None:
        self._known = {_storage(t) for network in job.networks for t in (*network.parameters(), *network.buffers())}
        self._alive: list[Any] = []  # so that no address is used twice
        self.bytes = 0

    def counting(self) -> AbstractContextManager[Any]:
        """A context in which saved tensors are counted."""
        return saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._known:
            self._known.add(_storage(tensor))
            self._alive.append(tensor.untyped_storage())
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def activation_bytes(job: Distillation, seen: int) -> dict[str, int]:
    """Bytes saved for the backward pass in phases A and B of one iteration (which is run; a single round)."""
    phases: dict[str, Callable[[int], Any]] = {"A": job.update_fake_score, "B": job.update_generator}
    found = {}
    for name, phase in phases.items():
        saved = SavedTensors(job)
        with saved.counting():
            phase(seen)
        found[name] = saved.bytes
    return found


def state_bytes(job: Distillation) -> dict[str, int]:
    """Bytes of each network and of both optimisers' moments."""
    networks = {"phi": job.networks.phi, "psi": job.networks.psi, "theta": job.networks.theta}
    networks["theta_ema"] = job.networks.theta_ema
    found = {name: _bytes((*network.parameters(), *network.buffers())) for name, network in networks.items()}
    moments = [state.values() for o in (job.psi_optimiser, job.theta_optimiser) for state in o.state.values()]
    found["optimisers"] = _bytes(value for values in moments for value in values)
    return found


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
