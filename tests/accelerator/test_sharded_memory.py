"""`plan`'s memory of divided networks against the bytes of the accelerator that one of many processes holds."""

from __future__ import annotations

import itertools

import pytest
import torch

from sida import recipe
from sida.gpus import GPUS, Machines
from sida.numerics.networks import layers
from sida.planning import plan
from sida.recipe import Recipe
from sida.training.cost import iteration_cost
from sida.training.division import local
from tests.accelerator.made import fused
from tests.accelerator.sharded import HeldShards, job_among, shapes_among

SIZES = ("xs", "s", "m", "l", "xl", "xxl")
WORLD = 8
IMAGES = 4  # a micro-batch, so that states are most of it


def most_held(loaded: Recipe) -> int:
    """Bytes at the peak of two rounds of both phases, with Adam's moments and the best generator there."""
    with shapes_among(WORLD) as (processes, _):
        job = job_among(loaded, IMAGES, processes)
        with HeldShards(processes.device).seeing() as held:
            for part in job.networks:
                held.add((*part.parameters(), *part.buffers()))
            best = [torch.zeros_like(local(one)) for one in job.networks.theta_ema.parameters()]
            for updates in (job.psi_updates, job.theta_updates):
                for parameter in updates.parameters.values():
                    parameter.grad = torch.zeros_like(parameter)
                updates.adam.step()
                updates.zero_grad()
            seen = job.method.warm_up + 1
            for phase in (job.update_generator, job.update_fake_score):
                phase(seen)
            assert best
            return held.peak


QUICK = ("xs", "full", False)


@pytest.mark.parametrize(
    ("size", "shard", "again"),
    [
        case if case == QUICK else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(SIZES, ("optimizer", "full"), (False, True))
    ],
)
def test_plan_counts_what_a_process_of_eight_holds_within_10_percent(
    size: str, shard: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "scaled_dot_product_attention", fused)
    loaded = recipe.load(f"imagenet-512-edm2-{size}")
    fields = {"shard": shard, "activation_checkpointing": again, "micro_batch": IMAGES}
    execution = loaded.execution.model_copy(update=fields)
    method = loaded.method.model_copy(update={"loss_group": IMAGES})
    loaded = loaded.model_copy(update={"execution": execution, "method": method})
    held = most_held(loaded)
    cost = iteration_cost(loaded.teacher.network, loaded.method, execution)
    planned = plan(loaded, cost, Machines(1, WORLD, GPUS["h100"]))
    bytes_planned = planned.memory_bytes - planned.memory["allowance (context, fragments)"]
    print(f"{size}, {shard}, {again}: {held / 2**30:.2f} GiB held, {bytes_planned / 2**30:.2f} planned")
    assert planned.division.rounds > 1
    assert bytes_planned == pytest.approx(held, rel=0.1)
