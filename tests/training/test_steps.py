"""Generators of several steps: whose gradient, which steps, the same numbers on any cut, the work that is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sida.numerics.networks.precondition import Denoiser
from sida.recipe import Execution, Network
from sida.training.cost import iteration_cost
from sida.training.iteration import Distillation
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.tiny import ALONE, EDM2, NETWORK, distillation, largest_difference, method, run

TOLERANCE = 1e-9  # relative norm in float64: sums in another order
SECOND = 0.169  # sigma of the second of two steps, halfway between 2.5 and 0.002 in sigma^(1/7)


class Calls:
    """What a network was called with: (sigma by image, gradient, dropout)."""

    def __init__(self, network: Denoiser) -> None:
        self.seen: list[tuple[list[float], bool, bool]] = []
        network.register_forward_pre_hook(self._note)

    def _note(self, network: torch.nn.Module, given: tuple[Tensor, float | Tensor, Tensor]) -> None:
        x, sigma, _ = given
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x)).tolist()
        self.seen.append(([round(level, 5) for level in levels], torch.is_grad_enabled(), network.training))


def test_each_image_in_turn_is_that_of_another_step_and_only_its_last_evaluation_has_gradient_and_dropout() -> None:
    job = distillation(name="sid", batch=4, loss_group=2, steps=2)
    theta = Calls(job.networks.theta)
    job.run(4)
    own = [2.5, SECOND] * 2
    phase_a = [([2.5, 2.5], False, False), (own, False, False)]
    phase_b = [([2.5, 2.5], False, False), (own, True, True)]
    assert theta.seen == phase_a + phase_b


def test_every_k_images_hold_each_step_once_wherever_a_micro_batch_is_cut() -> None:
    job = distillation(micro_batch=1, name="sid", batch=8, loss_group=1, steps=4)
    theta = Calls(job.networks.theta)
    job.update_generator(8)
    own = [levels[0] for levels, gradient, _ in theta.seen if gradient]
    assert own == [2.5, 0.73936, SECOND, 0.02598] * 2
    assert len(theta.seen) == 8 * 4  # a process calls theta as often as any other, which a divided theta needs


def test_two_steps_train_something_else_than_one() -> None:
    one, two = (run(distillation(steps=steps), 4) for steps in (1, 2))
    assert largest_difference(one, two) > 1e-3


CASES: dict[str, tuple[dict[str, object], int, str]] = {  # network, micro-batch, layout
    "plain": (NETWORK, 8, "none"),
    "few at once": (NETWORK, 2, "none"),
    "divided": (NETWORK, 8, "full"),
    "edm2 divided": (EDM2, 8, "optimizer"),
}


def _job(case: str, processes: Processes) -> Distillation:
    network, micro, shard = CASES[case]
    return _of(network, processes, micro, Execution(shard=shard, shard_over=2, checkpoint_every=1))  # type: ignore[arg-type]


def _of(
    network: dict[str, object], processes: Processes, micro: int, execution: Execution | None = None
) -> Distillation:
    changes = {"batch": 16, "loss_group": 2, "steps": 4, "dropout": 0.1}
    return distillation(processes, micro, network=network, execution=execution, **changes)  # type: ignore[arg-type]


def _outcome(case: str, processes: Processes) -> dict[str, Tensor]:
    job = _job(case, processes)
    for number in range(3, 6):  # both warm-ups end on the way
        job.run(number * 16)
    tensors = {
        f"{name}/{key}": tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, network in (("psi", job.networks.psi), ("theta", job.networks.theta), ("ema", job.networks.theta_ema))
        for key, tensor in network.state_dict().items()
    }
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _worker(processes: Processes, folder: str) -> None:
    for case in CASES:
        outcome = _outcome(case, processes)
        if processes.first:
            torch.save(outcome, f"{folder}/{case}")


def test_processes_rounds_and_layouts_change_no_number_of_several_steps(tmp_path: Path) -> None:
    alone = {str(network): run(_of(network, ALONE, 16), 3, seen=48) for network in (NETWORK, EDM2)}
    in_processes(2, _worker, str(tmp_path))
    for case in CASES:
        found = torch.load(tmp_path / case, weights_only=True)
        assert largest_difference(alone[str(CASES[case][0])], found) < TOLERANCE, case


@pytest.mark.parametrize("steps", [2, 4])
def test_steps_cost_half_as_many_forwards_as_there_are_more_of_them_in_each_phase(steps: int) -> None:
    network = Network(**NETWORK)  # type: ignore[arg-type]
    one, more = (iteration_cost(network, method(steps=count)) for count in (1, steps))
    for phase in ("A", "B"):
        added = getattr(more, phase).flops - getattr(one, phase).flops
        assert added / one.forward_flops == pytest.approx((steps - 1) / 2, abs=0.01)
        assert getattr(more, phase).masks == getattr(one, phase).masks  # the evaluations before have none
