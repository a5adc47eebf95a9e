"""Half precision on float32 master weights: close to float32 where that is promised."""

from __future__ import annotations

import pytest
import torch

from benchmarks.precision import agreement, names
from tests.training.tiny import distillation


@pytest.mark.parametrize(("file", "case"), names("A"))
def test_phase_A_in_bfloat16_has_float32_s_loss_and_direction(file: str, case: str) -> None:
    found = agreement(file, case, torch.bfloat16)
    assert found.within, found


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_an_iteration_in_half_precision_keeps_its_weights_and_states_in_float32(precision: str) -> None:
    job = distillation(dtype=torch.float32, precision=precision)
    start = {name: p.detach().clone() for name, p in job.networks.theta.named_parameters()}
    losses = job.run(1000)
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert {p.dtype for network in job.networks for p in network.parameters()} == {torch.float32}
    states = [s["exp_avg_sq"] for o in (job.psi_optimiser, job.theta_optimiser) for s in o.state.values()]
    assert states and {state.dtype for state in states} == {torch.float32}
    assert any(not torch.equal(start[name], p) for name, p in job.networks.theta.named_parameters())
