"""Waits between processes of real gloo groups: unequal work takes as long as it takes, and who is gone is noticed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from sida.errors import SidaError
from sida.scoring.partial import Piece, gather, merged, pieces
from sida.scoring.sums import Sums
from sida.stores import open_store
from sida.training.gradients import GradientSum
from sida.worker.ranks import Processes, joined
from tests.joined import FORKED

LIMIT = timedelta(seconds=3)
LONG = 2 * LIMIT.total_seconds()
WORK = pieces(2, 40)


class PieceJob:
    """What ``gather`` needs of a job."""

    def __init__(self, place: Path, processes: Processes) -> None:
        self.store, self.folder, self.processes = open_store(f"file://{place}"), "jobs/score", processes

    def publish(self, name: str, content: bytes | Path) -> None:
        self.store.put(f"{self.folder}/{name}", content)


def sums_of(piece: Piece) -> Sums:
    sums = Sums(3, 40)
    images = torch.randn(40, 3, generator=torch.Generator().manual_seed(piece.group))
    sums.moments.add(images[piece.start : piece.stop])
    return sums


def states(job: Any) -> list[dict[str, torch.Tensor]]:
    return [sums.state() for sums in merged(job, WORK, lambda: Sums(3, 40))]


def _in_process(work: Callable[[Processes, Path], None], rank: int, world: int, port: int, place: Path) -> None:
    torch.set_num_threads(1)
    # As torchrun starts its workers: the store is the agent's.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo"}
    here = distributed.TCPStore("127.0.0.1", port, is_master=False)
    here.add("started", 1)  # torch takes longer to start than the limit
    while here.add("started", 0) < world:
        time.sleep(0.01)
    with joined(LIMIT) as processes:
        work(processes, place)


class Group(AbstractContextManager["Group"]):
    """So many processes, each of which does ``work``; what is left of them is killed in the end."""

    def __init__(self, work: Callable[[Processes, Path], None], world: int, place: Path) -> None:
        self.agent = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        arguments = [(work, rank, world, self.agent.port, place) for rank in range(world)]
        self.processes = [FORKED.Process(target=_in_process, args=each) for each in arguments]
        for process in self.processes:
            process.start()

    def statuses(self, seconds: float = 120) -> list[int | None]:
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()


# -- unequal work


def _pieces_of_which_one_is_slow(processes: Processes, place: Path) -> None:
    mine = []

    def made(piece: Piece) -> Sums:
        if not mine and not processes.first:
            time.sleep(LONG)
        mine.append(piece)
        return sums_of(piece)

    gather(PieceJob(place, processes), WORK, made)  # type: ignore[arg-type]
    (place / f"made-{processes.rank}").write_text(str(len(mine)))


def test_a_piece_that_takes_longer_than_the_limit_ends_well_and_the_others_make_the_rest(tmp_path: Path) -> None:
    with Group(_pieces_of_which_one_is_slow, 2, tmp_path) as group:
        assert group.statuses() == [0, 0]
    fast, slow = (int((tmp_path / f"made-{rank}").read_text()) for rank in (0, 1))
    assert fast + slow == len(WORK) and slow == 1
    alone = PieceJob(tmp_path / "alone", Processes(0, 1, torch.device("cpu")))
    gather(alone, WORK, sums_of)  # type: ignore[arg-type]
    for one, other in zip(states(alone), states(PieceJob(tmp_path, alone.processes)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def _first_word_after_long(processes: Processes, place: Path) -> None:
    if processes.first:
        time.sleep(LONG)  # a checkpoint that is fetched
    assert processes.from_first({"seen": 12} if processes.first else None) == {"seen": 12}


def test_what_the_first_process_takes_long_to_find_out_arrives(tmp_path: Path) -> None:
    with Group(_first_word_after_long, 2, tmp_path) as group:
        assert group.statuses() == [0, 0]


def _first_step_after_long(processes: Processes, place: Path) -> None:
    network = torch.nn.Linear(3, 1, bias=False)
    summed = GradientSum(network, processes)
    summed.arm()
    if processes.first:
        time.sleep(LONG)  # it compiles
    network(torch.full((1, 3), 1.0 + processes.rank)).sum().backward()
    summed.finish()
    assert network.weight.grad is not None and network.weight.grad.tolist() == [[3.0, 3.0, 3.0]]


def test_a_first_step_that_one_process_compiles_for_long_ends_well(tmp_path: Path) -> None:
    with Group(_first_step_after_long, 2, tmp_path) as group:
        assert group.statuses() == [0, 0]


# -- who is gone


def _goes(processes: Processes, place: Path) -> None:
    processes.meet()
    if not processes.first:
        os.kill(os.getpid(), signal.SIGKILL if (place / "killed").exists() else signal.SIGSTOP)
    started = time.monotonic()
    try:
        processes.meet()
    except SidaError as error:
        (place / "said").write_text(f"{time.monotonic() - started:.1f} {error}")
        os._exit(7)  # as a worker: nothing is left to be exchanged


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_process_that_is_gone_is_noticed(tmp_path: Path, how: str) -> None:
    (tmp_path / how).touch()
    with Group(_goes, 2, tmp_path) as group:
        group.processes[0].join(60)
        assert group.processes[0].exitcode == 7
    seconds, _, said = (tmp_path / "said").read_text().partition(" ")
    assert said.startswith("process 1 of 2 has given no sign of life for ")
    assert LIMIT.total_seconds() <= float(seconds) < 10 * LIMIT.total_seconds()


def _meets_when_the_store_is_gone(processes: Processes, place: Path) -> None:
    processes.meet()
    (place / f"met-{processes.rank}").touch()
    time.sleep(LIMIT.total_seconds())
    try:
        processes.meet()
    except SidaError as error:
        (place / f"said-{processes.rank}").write_text(str(error))
        os._exit(7)


def test_a_store_that_is_gone_is_said(tmp_path: Path) -> None:
    with Group(_meets_when_the_store_is_gone, 2, tmp_path) as group:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("met-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        del group.agent
        assert group.statuses() == [7, 7]
    for rank in (0, 1):
        assert "in which the job's processes meet, is gone" in (tmp_path / f"said-{rank}").read_text()
