"""The same numbers however the work is cut: 1, 2, 4 processes times 1, 2, 4 accumulation rounds, dropout and augmentation on."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed

from sida.numerics.draws import Draws
from sida.numerics.quantize import to_preview_uint8
from sida.training.gradients import GradientSum
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.tiny import ALONE, distillation, largest_difference, run

TOLERANCE = 1e-9  # relative norm in float64: sums in another order differ by about 1e-12
ROUNDS, WORLDS = (1, 2, 4), (1, 2, 4)
BATCH, GROUP = 32, 2  # so that 4 processes with 4 rounds still have a whole loss group in each

Outcome = dict[str, torch.Tensor]


def _outcome(rounds: int, processes: Processes, dtype: torch.dtype, iterations: int) -> Outcome:
    """All tensors after the iterations, and a sample grid of the EMA as it would be drawn."""
    micro_batch = BATCH // processes.world // rounds
    job = distillation(processes, micro_batch, dtype, augment=0.5, dropout=0.1, batch=BATCH, loss_group=GROUP)
    tensors = run(job, iterations)
    noise = Draws(1).normal("grid", torch.arange(80), (1, 8, 8), dtype)
    labels = torch.nn.functional.one_hot(torch.arange(80) % 10, 10).to(dtype)
    with torch.no_grad():
        grid = job.networks.theta_ema(2.5 * noise, 2.5, labels)
    return tensors | {"grid": to_preview_uint8(grid)}


def _outcomes(processes: Processes, target: str, iterations: int) -> None:
    for dtype, rounds in [(torch.float64, rounds) for rounds in ROUNDS] + [(torch.float32, 1)]:
        outcome = _outcome(rounds, processes, dtype, iterations)
        if processes.rank == 0:
            torch.save(outcome, f"{target}/{processes.world}-{rounds}-{dtype}")


def _load(folder: Path, world: int, rounds: int, dtype: torch.dtype = torch.float64) -> tuple[Outcome, torch.Tensor]:
    outcome = torch.load(folder / f"{world}-{rounds}-{dtype}", weights_only=True)
    return outcome, outcome.pop("grid")


@pytest.mark.parametrize("iterations", [5, pytest.param(20, marks=pytest.mark.slow)])  # all terms act from the third on
def test_processes_and_rounds_change_no_tensor_and_no_sample_and_the_drift_in_float32_is_reported(
    iterations: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    _outcomes(ALONE, str(tmp_path), iterations)
    for world in WORLDS[1:]:
        in_processes(world, _outcomes, str(tmp_path), iterations)
    whole, grid = _load(tmp_path, 1, 1)
    assert grid.float().std() > 10  # a picture, not a grey field
    for world, rounds in itertools.product(WORLDS, ROUNDS):
        cut, cut_grid = _load(tmp_path, world, rounds)
        assert largest_difference(whole, cut) < TOLERANCE, (world, rounds)
        assert torch.equal(grid, cut_grid), (world, rounds)
    whole, _ = _load(tmp_path, 1, 1, torch.float32)
    for world in WORLDS[1:]:
        drift = largest_difference(whole, _load(tmp_path, world, 1, torch.float32)[0])
        record_property(f"float32 drift, {world} processes, {iterations} iterations", drift)
        print(f"float32 drift after {iterations} iterations on {world} processes: {drift:.1e}")
        assert (
            drift < 0.1
        )  # Adam turns rounding noise of near-zero gradients into steps; anything larger is no rounding


# --- gradients that travel while backward runs --------------------------------------------------------------------


def _reduction(processes: Processes, target: str) -> None:
    network = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(6)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 10)
    idle = torch.nn.Parameter(torch.ones(3))  # takes no part in the forward
    network.register_parameter("idle", idle)
    summed = GradientSum(network, processes, bucket_elements=20)
    sent: list[int] = []
    real = distributed.all_reduce
    distributed.all_reduce = lambda tensor, **options: (sent.append(tensor.numel()), real(tensor, **options))[1]
    summed.arm()
    network(torch.ones(2, 4)).sum().backward()
    assert not sent  # in the first step processes meet first: one of them may have compiled for long
    summed.finish()
    assert sent
    sent.clear()
    network.zero_grad(set_to_none=True)
    for number in range(3):  # accumulation: two rounds stay here, the third sends
        if number == 2:
            summed.arm()
        network(torch.full((2, 4), 1.0 + processes.rank + number)).sum().backward()
        if number < 2:
            assert not sent
    early = summed.sent_early
    summed.finish()
    distributed.all_reduce = real
    assert sum(sent) == sum(p.numel() for p in network.parameters()) - 3  # each element once, the idle ones not
    assert early >= 5 and idle.grad is None
    if processes.rank == 0:
        torch.save([p.grad.clone() for p in network.parameters() if p.grad is not None], target)


def test_gradients_travel_during_the_last_backward_once_per_step_and_are_the_sum() -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_processes(2, _reduction, f"{folder}/sum")
        summed = torch.load(f"{folder}/sum", weights_only=True)
    network = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(6)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 10)
    for rank in (0, 1):
        for number in range(3):
            network(torch.full((2, 4), 1.0 + rank + number)).sum().backward()
    for expected, found in zip(network.parameters(), summed, strict=True):
        torch.testing.assert_close(found, expected.grad)
