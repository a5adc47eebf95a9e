"""What a selection decides is decided alike by all processes, whatever processors they are on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from sida.launch.spec import JobFile
from sida.settings import settings
from sida.stores import open_store
from sida.training import selection
from sida.training.distill_loop import DistillRun
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.digits_job import bench_in, recipe


def _score(processes: Processes, folder: str, file: JobFile) -> None:
    """Score a generator where each process would find another number."""
    chosen = recipe(Path(tempfile.mkdtemp(dir=folder)))
    distance = selection.frechet_distance

    def rounded(*moments: torch.Tensor) -> float:
        return distance(*moments) * (1 + 1e-15 * processes.rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "frechet_distance", rounded)
        run = DistillRun(Job(file, chosen, open_store(settings().store), processes))
        score = run.selection.score(lambda: False)
    run.writer.close()
    found = torch.tensor([score, -score], dtype=torch.float64)
    assert processes.maximum(found) == [score, -score] and score > 0


def test_processes_that_round_otherwise_have_the_first_ones_score(tmp_path: Path) -> None:
    with bench_in(tmp_path) as made:
        in_processes(2, _score, str(made.folder), made.job().file)
