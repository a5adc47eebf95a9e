"""What an iteration costs, counted: the project's own iteration runs on torch's meta device, which computes shapes only.

FLOPs come from torch's counter (2 per multiply-add); bytes are those of all tensors that a round holds at its peak, beyond
networks, gradients and Adam's moments. Nothing is allocated, so that this takes seconds for any size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sida.numerics.losses import denoising_loss
from sida.numerics.networks.layers import UNetBlock, key_dropout
from sida.numerics.networks.magnitude import Block, folded_bytes, release_folded
from sida.numerics.networks.precondition import Denoiser
from sida.recipe import Execution, Method, Network, TeacherTraining
from sida.teachers.files import network_on_meta
from sida.training.execution import apply_execution
from sida.training.iteration import Distillation, Networks
from sida.training.memory import phase_bytes
from sida.worker.ranks import Processes

META = torch.device("meta")
_BACKWARD = torch.ops.aten._scaled_dot_product_efficient_attention_backward


@dataclass(frozen=True)
class PhaseCost:
    """One phase: FLOPs and dropout masks' elements per image; bytes held at its peak, per image and (cast weights) per round.

    ``kept``: bytes of a round that are gone where frozen networks do not keep their weights as they use them.
    """

    flops: int
    bytes_per_image: int
    bytes_per_round: int
    masks: int
    kept: int = 0

    def held_bytes(self, micro_batch: int) -> int:
        """What one round holds at its peak: activations, weights as they are used, gradients on their way back."""
        return self.bytes_per_round + micro_batch * self.bytes_per_image


@dataclass(frozen=True)
class Blocks:
    """Parameters of a network that processes may divide among them: the weights of its residual blocks."""

    all: int
    encoder: int
    largest: int  # of one block


@dataclass(frozen=True)
class IterationCost:
    """Parameters of one network and of its largest tensor, FLOPs of its forward on one image, both phases beyond the warm-ups."""

    parameters: int
    largest: int
    forward_flops: int
    encoder_flops: int
    A: PhaseCost
    B: PhaseCost
    blocks: Blocks
    teaching: tuple[int, int] = (0, 0)  # of one image in the teacher's own training: FLOPs, dropout masks' elements

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


class EmptyDraws:
    """Draws of the right shape and no content, where the indices are; ``masks`` counts the elements of masks."""

    def __init__(self) -> None:
        self.masks = 0

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return torch.empty(len(indices), *shape, dtype=dtype, device=indices.device)

    normal = uniform

    def keep(self, purpose: str, indices: Tensor, shape: Sequence[int], p: float) -> Tensor:
        self.masks += len(indices) * math.prod(shape)
        return self.uniform(purpose, indices, shape, torch.bool)


@dataclass(frozen=True)
class MetaData:
    """Batches of the right shape and no content."""

    network: Network

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        network, count = self.network, len(positions)
        images = torch.empty(count, network.channels, network.resolution, network.resolution, device=META)
        return images, torch.empty(count, network.label_dim, device=META)


class _Phases(Distillation):
    """Without optimizer steps, which are counted as memory and hardly matter as FLOPs."""

    def _step(self, *args: Any, **keywords: Any) -> Tensor:
        return torch.empty((), device=META)


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *rest: Any, **keywords: Any) -> int:
    """Twice the forward; that fused kernels compute the scores once more is theirs."""
    return 2 * sdpa_flop_count(query, key, value)


def iteration_cost(
    network: Network, method: Method, execution: Execution | None = None, training: TeacherTraining | None = None
) -> IterationCost:
    """Count one iteration of ``method`` with networks like ``network``, beyond the warm-ups; and of the teacher's ``training``.

    Bytes are counted at ``execution``'s micro-batch (or one loss group) and at half of it. With activation checkpointing blocks
    keep their inputs only, and what they compute again counts as work; channels-last weights of float32 are copies.
    """
    large = max(2, (execution and execution.micro_batch) or method.loss_group)
    small = large // 2
    teacher = network_on_meta(network.model_dump(), "the recipe", method.dropout)
    job = partial(_job, teacher, network, method, execution)
    last = job(large)
    # A generator's steps take turns from image to image: as many images hold each once.
    work, few, many = _work(job(method.steps), method.steps), _held(job(small)), _held(last)
    # Two frozen networks' in each phase. In B autograd holds them up to the peak, unless blocks are computed again.
    kept = 2 * folded_bytes(last.networks.phi)
    recomputed = execution is not None and execution.activation_checkpointing
    phases = []
    for (flops, masks), less, more, gone in zip(work, few, many, (kept, kept if recomputed else 0), strict=True):
        image = (more - less) // (large - small)
        phases.append(PhaseCost(flops, image, more - large * image, masks, gone))
    sizes = [p.numel() for p in teacher.parameters()]
    whole, encoder = forward_flops(teacher)
    taught = (0, 0) if training is None else _teaching(network, training)
    return IterationCost(sum(sizes), max(sizes), whole, encoder, phases[0], phases[1], _blocks(teacher), taught)


def _blocks(network: Denoiser) -> Blocks:
    sizes = {
        name: sum(p.numel() for p in module.parameters() if p.ndim)
        for name, module in network.trunk.named_modules()
        if isinstance(module, UNetBlock | Block)
    }
    encoder = sum(size for name, size in sizes.items() if name.startswith("enc."))
    return Blocks(sum(sizes.values()), encoder, max(sizes.values()))


def _job(teacher: Denoiser, network: Network, method: Method, execution: Execution | None, batch: int) -> _Phases:
    """Phases A and B on ``batch`` images in one round."""
    small = method.model_copy(update={"batch": batch, "loss_group": batch, "augment": 0.0})
    release_folded(teacher)  # of the forward that checked it: copies would begin with it
    networks = Networks.start(copy.deepcopy(teacher))
    if execution is not None:
        apply_execution(networks, execution.model_copy(update={"compile": False}))
    return _Phases(networks, small, EmptyDraws(), MetaData(network), Processes(0, 1, META))


def _held(job: _Phases) -> list[int]:
    """Bytes that each phase holds at its peak."""
    with META:
        return list(phase_bytes(job, job.method.warm_up + 1, META).values())


def _work(job: _Phases, images: int) -> list[tuple[int, int]]:
    """FLOPs of each phase for one of the round's images, and elements of dropout masks."""
    counts = []
    for phase in (job.update_fake_score, job.update_generator):
        job.draws = draws = EmptyDraws()
        with META, FlopCounterMode(display=False, custom_mapping={_BACKWARD: _attention_backward}) as counter:
            phase(job.method.warm_up + 1)
        counts.append((counter.get_total_flops() // images, draws.masks // images))
    return counts


def _teaching(network: Network, training: TeacherTraining) -> tuple[int, int]:
    """FLOPs of a forward and its backward pass on one image, and elements of dropout masks."""
    student, draws = network_on_meta(network.model_dump(), "the recipe", training.dropout).train(), EmptyDraws()
    with META, FlopCounterMode(display=False, custom_mapping={_BACKWARD: _attention_backward}) as counter:
        x, c = MetaData(network).batch(torch.zeros(1))
        sigma = torch.ones(1)
        key_dropout(student, draws, "teach", torch.zeros(1))
        denoising_loss(student(x, sigma, c), x, sigma).sum().backward()
    return counter.get_total_flops(), draws.masks


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
