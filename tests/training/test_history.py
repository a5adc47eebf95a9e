"""The curve of a distillation: means over windows, exact across kills."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sida.training.history import POINTS, History
from sida.worker.ranks import Processes
from tests.joined import in_processes

ONE = Processes(0, 1, torch.device("cpu"))
BATCH, IMAGES = 4, 4_000  # windows of 20 images: 5 iterations


def values(iteration: int) -> dict[str, Tensor]:
    found = {"loss": torch.tensor(1 / (1 + iteration)), "dropped": torch.tensor(iteration % 3)}
    return found | ({"late": torch.tensor(float(iteration))} if iteration > 7 else {})


def feed(history: History, first: int, end: int) -> None:
    for iteration in range(first, end):
        history.add((iteration + 1) * BATCH, values(iteration), last=iteration == 99)


def test_a_point_is_the_mean_of_its_window_and_counts_are_summed() -> None:
    history = History(IMAGES, BATCH, ONE)
    feed(history, 0, 10)
    assert [point["images"] for point in history.points] == [20, 40]
    assert math.isclose(history.points[0]["loss"], sum(1 / (1 + i) for i in range(5)) / 5, rel_tol=1e-5)  # six digits
    assert history.points[0]["dropped"] == 0 + 1 + 2 + 0 + 1
    assert "late" not in history.points[0]
    assert history.points[1]["late"] == 8.5  # of the iterations that have it


def test_a_run_that_is_killed_and_continued_has_the_same_points() -> None:
    whole = History(IMAGES, BATCH, ONE)
    feed(whole, 0, 100)
    for killed, checkpoint in ((3, 0), (13, 12), (50, 45), (99, 98)):
        first = History(IMAGES, BATCH, ONE)
        feed(first, 0, checkpoint)
        saved = json.dumps(first.state_dict())
        feed(first, checkpoint, killed)  # lost
        second = History(IMAGES, BATCH, ONE)
        second.load_state_dict(json.loads(saved))
        feed(second, checkpoint, 100)
        assert second.points == whole.points


def _save(processes: Processes, end: int, target: str) -> None:
    history = History(IMAGES, BATCH, processes)
    feed(history, 0, end)
    state = json.dumps(history.state_dict())
    if processes.first:
        Path(target).write_text(state)


def _continue(processes: Processes, begin: int, saved: str, target: str) -> None:
    history = History(IMAGES, BATCH, processes)
    history.load_state_dict(json.loads(Path(saved).read_text()))
    feed(history, begin, 10)
    if processes.first:
        Path(target).write_text(json.dumps(history.points))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_window_that_other_processes_began_has_the_same_means(before: int, after: int, tmp_path: Path) -> None:
    saved, target = str(tmp_path / "saved"), tmp_path / "points"
    whole = History(IMAGES, BATCH, ONE)
    feed(whole, 0, 10)
    for world, task in ((before, (_save, 8, saved)), (after, (_continue, 8, saved, str(target)))):
        if world == 1:
            task[0](ONE, *task[1:])
        else:
            in_processes(world, *task)
    points = json.loads(target.read_text())
    # Each process has the same values here: means are those of one, counts add up over the processes that had them.
    assert [point["loss"] for point in points] == pytest.approx([point["loss"] for point in whole.points], rel=1e-5)
    assert points[1]["late"] == whole.points[1]["late"] == 8.5
    assert points[1]["dropped"] == before * (2 + 0 + 1) + after * (2 + 0)


def test_scores_join_the_point_of_their_images_and_what_is_not_finite_leaves_a_gap() -> None:
    history = History(IMAGES, BATCH, ONE)
    feed(history, 0, 5)
    history.note(20, "score", 1.5)
    history.note(24, "score", math.inf)
    history.note(28, "score", 1.25)
    assert [point["images"] for point in history.points] == [20, 28]
    assert history.points[0]["score"] == 1.5 and "loss" in history.points[0]


def test_the_last_window_is_closed_and_a_long_run_has_a_bounded_number_of_points() -> None:
    history = History(1_000_003, 7, ONE)
    for iteration in range(142_858 // 50):
        history.add((iteration + 1) * 7, {"loss": torch.ones(())})
    assert len(history.points) <= POINTS // 50 + 1
    short = History(10, 4, ONE)
    short.add(4, {"loss": torch.ones(())})
    short.add(8, {"loss": torch.ones(())})
    short.add(12, {"loss": torch.zeros(())}, last=True)
    assert [point["images"] for point in short.points] == [4, 8, 12]
