"""The automatic batch size: the fastest that fits, tried once for a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sida.scoring.batch import fastest_batch
from tests.scoring.conftest import ASSET, make_inputs, tiny


class Machine:
    """``overhead`` seconds a batch, then a second for 1,000 images, and a factor beyond ``cache``; memory for ``room``."""

    def __init__(self, overhead: float, room: int = 10**9, cache: int = 10**9) -> None:
        self.now, self.overhead, self.room, self.cache = 0.0, overhead, room, cache
        self.tried: list[int] = []

    def work(self, batch: int) -> None:
        if batch > self.room:
            raise torch.OutOfMemoryError("out of memory")
        self.tried.append(batch)
        self.now += self.overhead + batch / 1000 * (1.5 if batch > self.cache else 1.0)

    def chosen(self, limit: int) -> int:
        return fastest_batch(self.work, limit, clock=lambda: self.now)[0]


@pytest.mark.parametrize(
    ("machine", "limit", "batch"),
    [
        (Machine(overhead=0.0), 512, 8),  # nothing is gained
        (Machine(overhead=1.0), 512, 512),
        (Machine(overhead=1.0), 500, 500),  # the limit itself is tried
        (Machine(overhead=1.0, room=100), 512, 64),  # the largest that fits
        (Machine(overhead=0.05, cache=128), 512, 128),
        (Machine(overhead=1.0, room=4), 512, 1),
        (Machine(overhead=1.0), 3, 3),
    ],
)
def test_the_fastest_batch_that_fits_is_taken_and_the_smallest_of_equals(
    machine: Machine, limit: int, batch: int
) -> None:
    assert machine.chosen(limit) == batch


def test_trying_ends_when_larger_batches_only_lose_time() -> None:
    machine = Machine(overhead=0.0, cache=16)
    assert machine.chosen(10**6) == 8
    assert max(machine.tried) == 64


def test_a_job_tries_once_records_it_and_keeps_to_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sida.scoring.score import score

    made = make_inputs(here, tiny())
    arguments = {"generator": made.generator, "reference": made.reference}
    recipe = tiny(execution={"sampling_batch": "auto"})
    first = score(recipe=recipe, **arguments).manifest
    path = next((here / "store" / "jobs" / "score").glob("*/1/batch.json"))
    found = json.loads(path.read_bytes())
    assert found["batch"] == first.about.notes["sampling_batch"] and len(found["images_per_second"]) > 1
    path.with_name("result.json").unlink(missing_ok=True)
    path.write_text(json.dumps({"batch": 3}))  # what an earlier start of this job had found
    score_folder = next((here / "store" / "steps" / "score").glob("*"))
    for file in score_folder.iterdir():
        file.unlink()
    again = score(recipe=recipe, **arguments).manifest
    assert again.about.notes["sampling_batch"] == 3
    assert again.rows[0].mean == pytest.approx(first.rows[0].mean, rel=1e-4)
    assert ASSET.exists()
