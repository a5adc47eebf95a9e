"""What an iteration costs, counted: the project's own iteration runs on torch's meta device, which computes shapes only.

FLOPs come from torch's counter (2 per multiply-add); activations are the tensors that autograd saves for the backward pass, each
storage once, the parameters themselves left out. Nothing is allocated, so that this takes seconds for any size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sida.numerics.networks.build import build_network
from sida.numerics.networks.precondition import Denoiser
from sida.recipe import Execution, Method, Network
from sida.training.execution import recompute_activations
from sida.training.iteration import Distillation, Networks
from sida.training.processes import Processes

META = torch.device("meta")


@dataclass(frozen=True)
class PhaseCost:
    """One phase: FLOPs per image; bytes saved for the backward pass, per image and (cast weights) per round."""

    flops: int
    bytes_per_image: int
    bytes_per_round: int

    def saved_bytes(self, micro_batch: int) -> int:
        """What the graph of one round holds when its backward pass begins."""
        return self.bytes_per_round + micro_batch * self.bytes_per_image


@dataclass(frozen=True)
class IterationCost:
    """Parameters of one network, FLOPs of its forward on one image, and both phases beyond the warm-ups."""

    parameters: int
    forward_flops: int
    encoder_flops: int
    A: PhaseCost
    B: PhaseCost

    @property
    def forward_gmac(self) -> float:
        """Giga multiply-adds of a forward."""
        return self.forward_flops / 2e9

    @property
    def encoder_share(self) -> float:
        """The part of a forward that the discriminator needs."""
        return self.encoder_flops / self.forward_flops

    @property
    def forwards(self) -> float:
        """FLOPs of both phases on one image, in forwards."""
        return (self.A.flops + self.B.flops) / self.forward_flops


class MetaDraws:
    """Draws of the right shape and no content."""

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return torch.empty(len(indices), *shape, dtype=dtype, device=META)

    normal = uniform


@dataclass(frozen=True)
class MetaData:
    """Batches of the right shape and no content."""

    network: Network

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        network, count = self.network, len(positions)
        images = torch.empty(count, network.channels, network.resolution, network.resolution, device=META)
        return images, torch.empty(count, network.label_dim, device=META)


class _Phases(Distillation):
    """Without optimiser steps, which are counted as memory and hardly matter as FLOPs."""

    def _step(self, *args: Any, **keywords: Any) -> Tensor:
        return torch.empty((), device=META)


@dataclass
class _Saved:
    """Bytes that autograd keeps, each storage once."""

    known: set[int]  # storages of parameters and buffers
    bytes: int = 0
    alive: list[Any] = field(default_factory=list)  # so that no address is used twice

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.alive.append(storage)
            self.bytes += storage.nbytes()
        return tensor


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *rest: Any, **keywords: Any) -> int:
    """Twice the forward; that fused kernels compute the scores once more is theirs."""
    return 2 * sdpa_flop_count(query, key, value)


def iteration_cost(network: Network, method: Method, execution: Execution | None = None) -> IterationCost:
    """Count one iteration of ``method`` with networks like ``network``, beyond the warm-ups.

    With ``execution.activation_checkpointing`` blocks keep their inputs only, and what they compute again counts as work.
    """
    recompute = execution is not None and execution.activation_checkpointing
    with META:
        teacher = build_network(network.model_dump(), method.dropout)
    backward = torch.ops.aten._scaled_dot_product_efficient_attention_backward
    counter = FlopCounterMode(display=False, custom_mapping={backward: _attention_backward})
    run = partial(_phases, teacher, network, method, recompute)
    one, two = run(1, counter), run(2, nullcontext())
    phases = [
        PhaseCost(flops, bytes2 - bytes1, 2 * bytes1 - bytes2)
        for (bytes1, flops), (bytes2, _) in zip(one, two, strict=True)
    ]
    parameters = sum(p.numel() for p in teacher.parameters())
    return IterationCost(parameters, *forward_flops(teacher), *phases)


def _phases(
    teacher: Denoiser, network: Network, method: Method, recompute: bool, batch: int, counter: Any
) -> list[tuple[int, int]]:
    """(saved bytes, FLOPs if there is a counter) of phases A and B on ``batch`` images in one round."""
    small = method.model_copy(update={"batch": batch, "loss_group": batch, "augment": 0.0})
    networks = Networks.start(copy.deepcopy(teacher))
    for part in (networks.phi, networks.psi, networks.theta) if recompute else ():
        recompute_activations(part)
    job = _Phases(networks, small, MetaDraws(), MetaData(network), Processes(0, 1, META))
    weights = [t for part in networks for t in (*part.parameters(), *part.buffers())]
    seen = max(method.adversarial_from, method.generator_from) + 1
    found = []
    for phase in (job.update_fake_score, job.update_generator):
        saved = _Saved({t.untyped_storage()._cdata for t in weights})
        with META, counter, saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            phase(seen)
        found.append((saved.bytes, counter.get_total_flops() if isinstance(counter, FlopCounterMode) else 0))
    return found


@torch.no_grad()
def forward_flops(network: Denoiser) -> tuple[int, int]:
    """FLOPs of a forward on one image: of the whole network, and of its encoder alone. ``network`` is on the meta device."""
    shape = (1, network.img_channels, network.img_resolution, network.img_resolution)
    counted = []
    for want in ("image", "logits"):
        with META, FlopCounterMode(display=False) as counter:
            network(torch.empty(shape), torch.ones(1), torch.empty(1, network.label_dim), want=want)
        counted.append(counter.get_total_flops())
    return counted[0], counted[1]
