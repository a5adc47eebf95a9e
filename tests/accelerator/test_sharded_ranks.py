"""Divided trainings at full size, seen from the first and the last of up to 256 processes: all send the same, in one order."""

from __future__ import annotations

import pytest
import torch

from sida import recipe
from sida.numerics.networks import layers
from sida.training.division import divided
from tests.accelerator.device import device
from tests.accelerator.made import fused
from tests.accelerator.ranks import Message
from tests.accelerator.sharded import job_among, shapes_among

IMAGES = 2  # a micro-batch
SLOW = pytest.mark.slow


def sent(name: str, shard: str, world: int, rank: int) -> tuple[list[Message], int, int]:
    """What a process sends in phases A and B, and how many elements of psi are divided (padded, as they travel), and whole."""
    loaded = recipe.load(name)
    execution = loaded.execution.model_copy(update={"shard": shard, "micro_batch": IMAGES})
    with shapes_among(world, rank) as (processes, notes):
        job = job_among(loaded.model_copy(update={"execution": execution}), IMAGES, processes)
        parameters = job.psi_updates.parameters.values()
        # Rows that are added where their number does not divide travel too.
        padded = sum(p.numel() // len(p) * (-len(p) % world) for p in parameters if divided(p))
        parts = sum(p.numel() for p in parameters if divided(p))
        job.update_fake_score(job.method.warm_up + 1)
        job.update_generator(job.method.warm_up + 1)
    return notes.messages, parts + padded, sum(p.numel() for p in parameters) - parts


@pytest.mark.parametrize(
    ("name", "shard", "world"),
    [
        ("imagenet-512-edm2-xs", "full", 8),
        *(
            pytest.param(f"imagenet-512-edm2-{size}", shard, world, marks=SLOW)
            for size in ("xs", "xxl")
            for shard in ("optimizer", "full")
            for world in (8, 64, 256)
            if (size, shard, world) != ("xs", "full", 8)
        ),
    ],
)
def test_processes_of_a_divided_training_agree(
    name: str, shard: str, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "scaled_dot_product_attention", fused)
    monkeypatch.setattr(torch.accelerator, "current_stream", torch.get_device_module(device()).current_stream)
    messages, parts, whole = sent(name, shard, world, 0)
    assert messages == sent(name, shard, world, world - 1)[0]
    gathered, reduced = (
        sum(message.elements for message in messages if message.what == what)
        for what in ("_allgather_base_", "_reduce_scatter_base_")
    )
    # psi before and after its step and theta, once or twice; in every pass of two rounds.
    assert gathered >= (3 if shard == "optimizer" else 2 * 9) * parts
    assert gathered < (5 if shard == "optimizer" else 2 * 11) * parts
    assert reduced * world == 2 * parts  # psi's and theta's once each, though psi's encoder is in two passes
    assert sum(m.elements for m in messages if m.what == "allreduce_") >= whole
