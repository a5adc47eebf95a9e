"""The same numbers however a training is divided among processes: weights, averages and moments, on gloo, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from sida.errors import UserError
from sida.recipe import Execution
from sida.teachers.files import network_on_meta, save_network
from sida.training.division import divided, local
from sida.training.iteration import Distillation, Networks
from sida.training.loading import load_into
from sida.training.sharding import divide, gathered, whole
from sida.training.state import load_state, state_of
from sida.training.stored import StoredTensors
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.tiny import ALONE, EDM2, NETWORK, distillation, largest_difference

CPU = torch.device("cpu")
ITERATIONS = 4  # the warm-ups are over after two
TOLERANCE = 1e-9  # relative norm in float64: sums in another order
BATCH, GROUP = 32, 2
METHODS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "ddpm++ sida": (NETWORK, {"augment": 0.5, "dropout": 0.1}),
    "edm2 sida": (EDM2, {"dropout": 0.1, "forced_normalization": True, "clip_fake_score": False}),
    "edm2 sid": (EDM2, {"name": "sid"}),
}
RUNS = {  # by processes: case, layout, processes that share a copy, rounds
    2: [
        ("ddpm++ sida", "optimizer", 2, 2),
        ("ddpm++ sida", "full", 2, 2),
        ("edm2 sida", "optimizer", 2, 1),  # with forced normalization, which is repeated in each round: one round
        ("edm2 sida", "full", 2, 1),
        ("edm2 sid", "optimizer", 2, 1),
        ("edm2 sid", "full", 2, 1),
    ],
    4: [("ddpm++ sida", "optimizer", 2, 2), ("edm2 sida", "full", 2, 1), ("edm2 sida", "full", 4, 1)],
}

Outcome = dict[str, Tensor]


def execution(shard: str, over: int | None = None) -> Execution:
    return Execution(shard=shard, shard_over=over, checkpoint_every=1)  # type: ignore[arg-type]


def job_of(case: str, processes: Processes, layout: str, micro: int, over: int | None = None) -> Distillation:
    network, changes = METHODS[case]
    return distillation(
        processes, micro, torch.float64, network, execution(layout, over), batch=BATCH, loss_group=GROUP, **changes
    )


def tensors_of(job: Distillation) -> Outcome:
    """All that a checkpoint holds, whole, by name: in the first process."""
    _, tensors = state_of(job.parts())
    return {name: tensor.clone() for name, tensor in whole(tensors, job.processes).items()}


def run(job: Distillation, first: int = 0, iterations: int = ITERATIONS) -> Outcome:
    norms = {}
    for number in range(first, first + iterations):
        job.run(number * BATCH)
        norms |= {f"norm/{name}/{number}": value.clone() for name, value in job.health.items() if "gradient" in name}
    return tensors_of(job) | norms


# --- in several processes


def _worker(processes: Processes, target: str) -> None:
    world = processes.world
    for case, layout, over, rounds in RUNS[world]:
        outcome = run(job_of(case, processes, layout, BATCH // world // rounds, over))
        if processes.rank == 0:
            torch.save(outcome, f"{target}/{_name(world, case, layout, over, rounds)}")


def _name(world: int, case: str, layout: str, over: int, rounds: int) -> str:
    """The file with what such a run ended with."""
    return f"{case}-{world}-{layout}-{over}-{rounds}"


def test_no_layout_changes_a_number(tmp_path: Path) -> None:
    whole_runs = {case: run(job_of(case, ALONE, "none", BATCH)) for case in METHODS}
    for world, runs in RUNS.items():
        in_processes(world, _worker, str(tmp_path))
        for cut in runs:
            alone = dict(whole_runs[cut[0]])
            divided = torch.load(tmp_path / _name(world, *cut), weights_only=True)
            assert alone.keys() == divided.keys(), cut
            norms = [name for name in alone if name.startswith("norm/")]  # which are told in float32
            assert largest_difference(*({n: them.pop(n) for n in norms} for them in (alone, divided))) < 1e-6, cut
            assert largest_difference(alone, divided) < TOLERANCE, cut


# --- what each process holds, and in which layout a training goes on


HALVES = {"optimizer": "ddpm++ sida", "full": "edm2 sida"}  # the first has parameters without a gradient


def _halves(processes: Processes, folder: str) -> None:
    for layout, case in HALVES.items():
        job = job_of(case, processes, layout, BATCH // processes.world)
        load_state(job.parts(), {}, StoredTensors([Path(folder, f"{layout}.half")]))
        run(job, 2, 2)
        ended = tensors_of(job)
        if processes.rank == 0:
            torch.save(ended, f"{folder}/{layout}")
        average = job.networks.theta_ema
        weights = [parameter for parameter in average.parameters() if divided(parameter)]
        assert sum(map(torch.numel, weights)) > 0.7 * sum(map(torch.numel, average.parameters()))
        assert sum(local(weight).numel() for weight in weights) < 0.6 * sum(map(torch.numel, weights))
        assert any(map(divided, job.networks.phi.parameters())) == (layout == "full")
        with gathered(average):
            if processes.rank == 0:  # alone: nothing is sent
                assert average(torch.zeros(1, 1, 8, 8, dtype=torch.float64), 1.0).isfinite().all()
            assert not any(map(divided, average.parameters()))


def test_a_training_goes_on_in_another_layout_of_which_each_process_holds_its_part(tmp_path: Path) -> None:
    ended = {}
    for layout, case in HALVES.items():
        alone = job_of(case, ALONE, "none", BATCH)
        run(alone, 0, 2)
        save_file(tensors_of(alone), tmp_path / f"{layout}.half")
        run(alone, 2, 2)
        ended[layout] = tensors_of(alone)
    in_processes(2, _halves, str(tmp_path))
    for layout, tensors in ended.items():
        assert largest_difference(tensors, torch.load(tmp_path / layout, weights_only=True)) < TOLERANCE


def test_one_process_keeps_all() -> None:
    job = job_of("edm2 sida", ALONE, "full", BATCH)
    assert not any(divided(parameter) for network in job.networks for parameter in network.parameters())


@pytest.mark.parametrize("over", [1, 3, 8])
def test_processes_that_do_not_divide_into_groups_are_refused(over: int) -> None:
    with pytest.raises(UserError, match=f"4 processes do not divide into groups of {over} .* execution.shard_over"):
        divide(job_of("edm2 sida", ALONE, "none", BATCH).networks, execution("full", over), Processes(0, 4, CPU))


def test_a_process_starts_from_its_own_rows_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_network = distillation(ALONE, network=EDM2).networks.phi.float()
    save_network(tmp_path / "teacher.safetensors", whole_network.state_dict(), EDM2)
    read: list[Tensor] = []

    def counted(method: str) -> None:
        reads = getattr(StoredTensors, method)
        monkeypatch.setattr(StoredTensors, method, lambda *args: read.append(made := reads(*args)) or made)

    counted("__getitem__")
    counted("rows")
    distributed.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        networks = Networks.start(network_on_meta(EDM2, "teacher"))
        divide(networks, execution("full"), Processes(3, 4, CPU))
        load_into(networks.phi, tmp_path / "teacher.safetensors", EDM2, CPU)
        held = {name: local(tensor) for name, tensor in networks.phi.state_dict().items()}
    finally:
        distributed.destroy_process_group()
    for name, tensor in whole_network.state_dict().items():
        if held[name].shape != tensor.shape:
            rows = -(-len(tensor) // 4)
            assert torch.equal(held[name], tensor[3 * rows : 4 * rows]), name
        else:
            assert torch.equal(held[name], tensor), name
    size = sum(tensor.nbytes for tensor in held.values())
    assert size < 0.5 * sum(tensor.nbytes for tensor in whole_network.state_dict().values())
    assert sum(tensor.nbytes for tensor in read) <= size
