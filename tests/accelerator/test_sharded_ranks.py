"""Divided trainings at full size, seen from the first and the last of 8, 64 and 256 processes: all send the same, in one order."""

from __future__ import annotations

from collections import Counter

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


def sent(name: str, shard: str, world: int, rank: int) -> tuple[list[Message], dict[str, int]]:
    """What a process sends in phases A and B, and the elements of psi that are divided and whole."""
    loaded = recipe.load(name)
    execution = loaded.execution.model_copy(update={"shard": shard, "micro_batch": IMAGES})
    with shapes_among(world, rank) as (processes, notes):
        job = job_among(loaded.model_copy(update={"execution": execution}), IMAGES, processes)
        parameters = job.psi_updates.parameters.values()
        sizes = {"divided": sum(p.numel() for p in parameters if divided(p))}
        sizes["whole"] = sum(p.numel() for p in parameters) - sizes["divided"]
        job.update_fake_score(job.method.warm_up + 1)
        print("A", Counter(m.what for m in notes.messages))
        job.update_generator(job.method.warm_up + 1)
    return notes.messages, sizes


@pytest.mark.parametrize("shard", ["optimizer", "full"])
@pytest.mark.parametrize("world", [8, 64, 256])
@pytest.mark.parametrize(
    "name", ["imagenet-512-edm2-xs", pytest.param("imagenet-512-edm2-xxl", marks=pytest.mark.slow)]
)
def test_processes_of_a_divided_training_agree(
    name: str, shard: str, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "scaled_dot_product_attention", fused)
    monkeypatch.setattr(torch.accelerator, "current_stream", torch.get_device_module(device()).current_stream)
    messages, sizes = sent(name, shard, world, 0)
    assert messages == sent(name, shard, world, world - 1)[0]
    kinds = Counter(message.what for message in messages)
    elements = {what: sum(m.elements for m in messages if m.what == what) for what in kinds}
    print(name, shard, world, kinds, elements, sizes)
