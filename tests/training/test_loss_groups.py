"""Loss groups that several processes hold together: one process's numbers, dropout and augmentation on, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from sida.numerics.losses import FakeScoreLosses, fake_score_losses, generator_losses
from sida.recipe import Execution
from sida.recipe.batches import divide_batch, divisors, micro_batches
from sida.training.iteration import Distillation
from sida.training.loss_groups import GroupSum
from sida.training.sharding import whole
from sida.training.state import load_state, state_of
from sida.training.stored import StoredTensors
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.tiny import EDM2, NETWORK, distillation, largest_difference

ITERATIONS = 6
TOLERANCE = 1e-9  # as in test_world_size.py
BATCH = 32
CPU = torch.device("cpu")


class Case(NamedTuple):
    """A division of the batch, and what is trained."""

    world: int
    group: int
    micro: int | None = None
    name: str = "sida"
    head: bool = False  # EDM2's network, with an uncertainty for each sample
    over: int | None = None  # processes that hold one copy of divided networks
    iterations: int = ITERATIONS

    def job(self, processes: Processes) -> Distillation:
        changes: dict[str, Any] = {"name": self.name, "batch": BATCH, "loss_group": self.group, "dropout": 0.1}
        if not self.head:
            changes["augment"] = 0.5
        network = {**EDM2, "logvar_channels": 8} if self.head else NETWORK
        divided = Execution(checkpoint_every=1, shard="full", shard_over=self.over) if self.over else None
        return distillation(processes, self.micro, torch.float64, network, divided, **changes)

    @property
    def alone(self) -> Case:
        """The same on one process, in one round."""
        return self._replace(world=1, micro=None, over=None)


CASES = {
    Case(2, 16, 8): (2, 2),  # span, rounds
    Case(2, 32, name="sid", iterations=5): (2, 1),
    Case(4, 16, 4): (4, 2),
    Case(4, 16, 4, head=True, over=2, iterations=5): (4, 2),
}
WORLDS = (2, 4)  # in this order: 4 processes go on from where 2 had stopped
STOPPED, CONTINUED = Case(2, 16, 8, head=True, iterations=3), Case(4, 16, 4, head=True, iterations=2)


def _trained(case: Case, processes: Processes) -> dict[str, Tensor]:
    job = case.job(processes)
    if case.world > 1:
        assert (job.division.span, job.division.rounds) == CASES[case]
        assert (job.psi_groups is None) == (job.theta_groups is None) == (case.name == "sid")
    return _run(job, case.iterations)


def _run(job: Distillation, iterations: int, seen: int = 0) -> dict[str, Tensor]:
    """All tensors of a checkpoint after the iterations, in the first process."""
    for number in range(iterations):
        job.run(seen + number * BATCH)
    return {name: value.clone() for name, value in whole(state_of(job.parts())[1], job.processes).items()}


def _stopped_and_continued(processes: Processes, folder: Path) -> dict[str, Tensor] | None:
    """The first iterations, whose state is left there; or the others, from that state."""
    state = folder / "state.safetensors"
    if processes.world == CONTINUED.world:
        job = CONTINUED.job(processes)
        load_state(job.parts(), {}, StoredTensors([state]))
        return _run(job, CONTINUED.iterations, STOPPED.iterations * BATCH)
    reached = _run(STOPPED.job(processes), STOPPED.iterations)
    if processes.first:
        save_file(reached, state)
    return None


def _with_a_nan(processes: Processes) -> dict[str, Tensor]:
    """Losses of an iteration whose first real image is no number, as the history averages them, and psi after it."""
    job = distillation(processes, None, torch.float64, batch=BATCH, loss_group=BATCH, dropout=0.0)
    images = job.data.images  # type: ignore[attr-defined]
    images[job.data.order(torch.arange(1))] = float("nan")  # type: ignore[attr-defined]
    losses = {name: value.clone() for name, value in job.run(0).items()}
    counts = job.dropped.clone()
    if processes.world > 1:
        for value in (*losses.values(), counts):
            distributed.all_reduce(value)
    means = {name: value / processes.world for name, value in losses.items()}
    return {**means, "dropped": counts.double(), **dict(job.networks.psi.named_parameters())}


class _Outputs(NamedTuple):
    """What networks might give for 16 samples in groups of 8, some of them NaN."""

    y: Tensor
    others: Tensor
    logits: Tensor
    sigma: Tensor


def _outputs(processes: Processes) -> _Outputs:
    generator = torch.Generator().manual_seed(0)
    y, others = (torch.randn(16, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = torch.randn(2, 16, 1, 2, 2, generator=generator, dtype=torch.float64)
    logits[0, 1, 0, 0, 0] = float("nan")  # one sample of a group, and the whole of the second one
    others[8:] = float("nan")
    sigma = 0.1 + torch.rand(16, generator=generator, dtype=torch.float64)
    mine = torch.arange(16).reshape(2, processes.world, -1)[:, processes.rank].flatten()  # of each group its part
    return _Outputs(y[mine], others[mine], logits[:, mine].requires_grad_(True), sigma[mine])


def _losses(processes: Processes) -> dict[str, Tensor]:
    """Sums of the losses, with NaNs in some members of the groups, and the gradient by this process's logits."""
    over = None if processes.world == 1 else GroupSum(processes, processes.consecutive(processes.world), 1)
    made, part = _outputs(processes), 8 // processes.world
    fake: FakeScoreLosses = fake_score_losses(made.y, made.others, made.sigma, *made.logits, None, part, over)
    theirs = generator_losses(made.y, made.others, made.y, 1.0, made.logits[0], None, part, over)
    assert fake.loss_D is not None and theirs.loss_adv is not None
    assert not fake.loss_D[-part:].any() and not theirs.loss_adv[-part:].any()  # a group that nobody has a sample of
    (fake.loss_D.sum() + theirs.loss_adv.sum()).backward()
    assert made.logits.grad is not None
    gradient = torch.zeros(2, 2, 8, 1, 2, 2, dtype=torch.float64)  # of all samples: these are elsewhere 0
    gradient[:, :, part * processes.rank : part * (processes.rank + 1)] = made.logits.grad.unflatten(1, (2, part))
    sums = {"D": fake.loss_D.detach().sum(), "adv": theirs.loss_adv.detach().sum(), "gradient": gradient}
    if processes.world > 1:
        for value in sums.values():
            distributed.all_reduce(value)
    return sums


def _work(processes: Processes, folder: Path) -> None:
    world = processes.world
    results: dict[Any, Any] = {tuple(case): _trained(case, processes) for case in CASES if case.world == world}
    results["continued"] = _stopped_and_continued(processes, folder)
    results["nan"], results["losses"] = _with_a_nan(processes), _losses(processes)
    if processes.rank == 0:
        torch.save(results, folder / f"results-{world}")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[Any, Any]]:
    """What 2 and 4 processes ended with."""
    folder = tmp_path_factory.mktemp("groups")
    for world in WORLDS:
        in_processes(world, _work, folder)
    return {world: torch.load(folder / f"results-{world}", weights_only=True) for world in WORLDS}


@pytest.fixture(scope="module")
def alone() -> dict[Case, dict[str, Tensor]]:
    """What one process ends with."""
    processes = Processes(0, 1, CPU)
    return {case: _trained(case, processes) for case in {case.alone for case in CASES}}


def test_a_group_on_several_processes_changes_no_number(results: Any, alone: Any) -> None:
    for case in CASES:
        assert largest_difference(alone[case.alone], results[case.world][tuple(case)]) < TOLERANCE, case


def test_a_run_goes_on_where_groups_span_more_processes(results: Any, alone: Any) -> None:
    undisturbed = CONTINUED.alone._replace(iterations=STOPPED.iterations + CONTINUED.iterations)
    assert largest_difference(alone[undisturbed], results[4]["continued"]) < TOLERANCE


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("what", "work"), [("nan", _with_a_nan), ("losses", _losses)])
def test_a_dropped_sample_is_left_out_by_all_that_share_its_group(
    results: Any, world: int, what: str, work: Any
) -> None:
    expected = work(Processes(0, 1, CPU))
    assert all(torch.isfinite(value).all() for value in expected.values())
    torch.testing.assert_close(results[world][what], expected, rtol=TOLERANCE, atol=1e-12)


# --- divisions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "group"), [(256, 32), (96, 32), (60, 12), (2048, 2)])
def test_every_number_of_processes_that_divides_a_batch_divides_its_groups(batch: int, group: int) -> None:
    for world in divisors(batch):
        division = divide_batch(batch, group, world)
        assert (division.span > 1) == (division.share % group > 0)  # not unless it is needed
        assert division.micro_batch == max(micro_batches(batch, group, world))


@pytest.mark.parametrize(("batch", "group", "world"), [(256, 32, 64), (96, 32, 4), (60, 12, 10), (96, 8, 6)])
def test_a_group_is_in_one_round_on_consecutive_processes_and_every_image_once(
    batch: int, group: int, world: int
) -> None:
    for micro in micro_batches(batch, group, world):
        division = divide_batch(batch, group, world, micro)
        seen: list[int] = []
        for number in range(division.rounds):
            first = [division.first(rank, number) for rank in range(world)]
            images = [image for start in first for image in range(start, start + micro)]
            together = micro * division.span
            for held in (images[start : start + together] for start in range(0, len(images), together)):
                assert held == list(range(held[0], held[0] + together)) and held[0] % group == 0
            seen += images
        assert sorted(seen) == list(range(batch))
