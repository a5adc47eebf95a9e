"""A training whose networks two processes hold together is killed (SIGKILL) while it writes, and goes on in any layout."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from sida.launch.spec import JobFile
from sida.training.checkpoint import Checkpoint, newest
from sida.training.state import load_state, state_of
from sida.training.writer import Writer
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.divided import Place
from tests.training.test_sharding import BATCH, TOLERANCE, job_of, tensors_of
from tests.training.tiny import ALONE, largest_difference

CASE = "ddpm++ sida"  # in two rounds on two processes: gradients wait in memory, the discriminator's in two passes
ITERATIONS, WHOLE = 6, 3  # of them, the warm-ups are two; those before the one that is killed


def _micro(processes: Processes) -> int:
    return BATCH // processes.world // 2


def _killed(processes: Processes, place: Place, file: JobFile) -> None:
    """Train, with a checkpoint of each iteration; end in the middle of the last one's way to the store."""
    job, training = place.job(file, processes), job_of(CASE, processes, "full", _micro(processes))
    writer = Writer(job, keep=2)
    for number in range(WHOLE + 1):
        training.run(number * BATCH)
        writer.save(Checkpoint((number + 1) * BATCH, *state_of(training.parts())))
        if number < WHOLE:
            writer.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def _ended(processes: Processes, place: Place, file: JobFile | None, layout: str) -> dict[str, torch.Tensor]:
    """What a training ends with, in the first process: from a job's newest checkpoint or, without a job, from its beginning."""
    training, begin = job_of(CASE, processes, layout, _micro(processes)), 0
    if file is not None:
        found = newest(place.job(file, processes))
        assert found is not None and found.seen in (WHOLE * BATCH, (WHOLE + 1) * BATCH)
        load_state(training.parts(), found.values, found.tensors)
        begin = found.seen // BATCH
    for number in range(begin, ITERATIONS):
        training.run(number * BATCH)
    return tensors_of(training)


def _in_two(processes: Processes, place: Place, file: JobFile) -> None:
    for layout, of in (("full", None), ("full", file), ("optimizer", file)):
        ended = _ended(processes, place, of, layout)
        if processes.first:
            torch.save(ended, f"{place.folder}/{layout}-{'whole' if of is None else 'killed'}")


def test_a_divided_training_that_was_killed_ends_with_the_same_bits_and_in_another_layout_with_the_same_numbers(
    tmp_path: Path,
) -> None:
    place = Place(str(tmp_path))
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_processes(2, _killed, place, place.file("killed"))
    in_processes(2, _in_two, place, place.file("killed"))
    whole, killed, optimizer = (
        torch.load(tmp_path / name, weights_only=True) for name in ("full-whole", "full-killed", "optimizer-killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert largest_difference(whole, optimizer) < TOLERANCE
    alone = _ended(ALONE, place, place.file("killed"), "none")
    assert whole.keys() == killed.keys() == optimizer.keys() == alone.keys()
    assert largest_difference(whole, alone) < TOLERANCE
