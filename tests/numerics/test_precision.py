"""Precisions on float32 master weights: half close to float32 where that is promised, TF32 float32 itself where no GPU is."""

from __future__ import annotations

import pytest
import torch

from benchmarks.precision import agreement, names
from tests.training.tiny import EDM2, NETWORK, distillation, run


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
    states = [s["exp_avg_sq"] for o in (job.psi_updates.adam, job.theta_updates.adam) for s in o.state.values()]
    assert states and {state.dtype for state in states} == {torch.float32}
    assert any(not torch.equal(start[name], p) for name, p in job.networks.theta.named_parameters())


@pytest.mark.parametrize("network", [NETWORK, EDM2], ids=["ddpmpp", "edm2"])
def test_tf32_is_float32_bit_for_bit_on_a_cpu(network: dict[str, object]) -> None:
    plain, rounded = (
        run(distillation(dtype=torch.float32, network=network, precision=precision), 3, seen=96)
        for precision in ("float32", "tf32")
    )
    assert plain.keys() == rounded.keys()
    assert all(torch.equal(plain[name], rounded[name]) for name in plain)


def test_what_follows_the_inner_tensors_size_is_float32_s_for_tf32() -> None:
    plain, rounded, half = (distillation(dtype=torch.float32, precision=p) for p in ("float32", "tf32", "float16"))
    for job, eps, dtype, scale in (
        (plain, 1e-8, torch.float32, 1),
        (rounded, 1e-8, torch.float32, 1),
        (half, 1e-6, torch.float16, 4),
    ):
        assert {o.defaults["eps"] for o in (job.psi_updates.adam, job.theta_updates.adam)} == {eps}
        assert {network.working_dtype for network in job.networks} == {dtype}
        assert job.method.loss_scale == scale
