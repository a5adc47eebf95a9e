"""What training keeps in memory, counted while it runs, against plan's count on the meta device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training import state_bytes
from sida.recipe import Execution, Network
from sida.training.cost import iteration_cost
from sida.training.execution import apply_execution, recompute_activations
from sida.training.memory import phase_bytes
from tests.training.tiny import EDM2, NETWORK, distillation, edm2, run

AGREEMENT = 0.15  # each device has its own attention
CPU = torch.device("cpu")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["ddpmpp", "edm2"])
def test_plan_and_trainer_agree_on_activations_within_15_percent(kind: str, recompute: bool) -> None:
    if kind == "edm2":
        job, network = edm2(dropout=0.0), EDM2
    else:
        job, network = distillation(dtype=torch.float32, dropout=0.0), NETWORK
    execution = Execution(checkpoint_every=1, activation_checkpointing=recompute, micro_batch=32)
    apply_execution(job.networks, execution)
    planned = iteration_cost(Network(**network), job.method, execution)
    counted = phase_bytes(job, 320, CPU)
    for phase in ("A", "B"):
        assert getattr(planned, phase).held_bytes(32) == pytest.approx(counted[phase], rel=AGREEMENT)


def test_activations_grow_with_the_micro_batch_and_shrink_when_recomputed() -> None:
    half, whole = (distillation(dtype=torch.float32, batch=batch, loss_group=4) for batch in (16, 32))
    saving = distillation(dtype=torch.float32)
    for network in (saving.networks.phi, saving.networks.psi, saving.networks.theta):
        recompute_activations(network)
    few, many, kept = (phase_bytes(job, 320, CPU) for job in (half, whole, saving))
    for phase in ("A", "B"):
        assert many[phase] == pytest.approx(2 * few[phase], rel=0.05)
        assert kept[phase] < 0.5 * many[phase]


def test_state_is_four_networks_and_two_pairs_of_moments() -> None:
    job = distillation(dtype=torch.float32)
    run(job, 2, seen=64)
    parts = state_bytes(job)
    network = parts["phi"]
    assert parts["psi"] == parts["theta"] == parts["theta_ema"] == network
    assert parts["optimizers"] == pytest.approx(4 * network, rel=0.02)
