"""Distillation jobs whose networks are divided between two processes: stopped or killed, and continued in any layout."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.multiprocessing import ProcessExitedException

from sida.errors import SidaError
from sida.launch.spec import JobFile
from sida.settings import settings
from sida.stores import open_store
from sida.training.distill_loop import distill
from sida.training.iteration import Distillation
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.digits_job import Bench, bench_in, recipe

SHORT = "method: {images: 128, decay_from: 64}\nexecution: {checkpoint_every: 1_000}"
OFTEN = SHORT.replace("1_000", "32")


def _divided(text: str) -> str:
    return text.replace("{checkpoint", "{shard: full, shard_over: 2, keep_selections: true, checkpoint")


DIVIDED = _divided(SHORT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("bench")) as made:
        yield made


def _stopped(job: Job[Any]) -> None:
    """Distill until SIGTERM comes to each process, in the iteration that begins at 64 images."""
    run = Distillation.run

    def stopping(self: Distillation, seen: int, record: Any = None) -> Any:
        if seen == 64:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, seen, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "run", stopping)
        with pytest.raises(SidaError, match="stopped at 96 images, after a checkpoint"):
            distill(job)
    job.processes.meet()


def _killed(processes: Processes, folder: str, file: JobFile) -> None:
    """Distill until SIGKILL comes to each process, in the iteration that begins at 96 images."""
    run = Distillation.run

    def dying(self: Distillation, seen: int, record: Any = None) -> Any:
        if seen == 96:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, seen, record)

    Distillation.run = dying  # type: ignore[method-assign]  # of a process that ends with it
    chosen = recipe(Path(tempfile.mkdtemp(dir=folder)), _divided(OFTEN))
    distill(Job(file, chosen, open_store(settings().store), processes))


def _record(job: Job[Any]) -> dict[str, Any]:
    """The newest checkpoint's, which is at 96 images; nothing that was only told is left."""
    keys = job.store.list(f"{job.folder}/checkpoints/")
    assert keys[-1].rpartition("/")[2].startswith("000000000096-")
    content: dict[str, Any] = json.loads(job.store.read(keys[-1]))
    return content


def _in_two(processes: Processes, folder: str, files: dict[str, JobFile]) -> None:
    def job(name: str) -> Job[Any]:
        chosen = recipe(Path(tempfile.mkdtemp(dir=folder)), DIVIDED)
        return Job(files[name], chosen, open_store(settings().store), processes)

    whole = distill(job("whole"))
    for name in ("stopped", "to-one"):
        _stopped(job(name))
        record = _record(job(name))
        assert record["schema_version"] == 3 and len(record["parts"]) == 1
        sizes = [ref["size"] for ref in (record["object"], *record["parts"])]
        assert max(sizes) < 0.55 * sum(sizes)
        processes.meet()
    for name in ("stopped", "killed"):
        again = distill(job(name))
        if whole is not None and again is not None:
            assert (again.generator, again.curve) == (whole.generator, whole.curve)  # bit for bit
            assert again.selections == whole.selections and len(whole.selections) == 2
            best = next(kept for kept in whole.selections if kept.images_seen == whole.images_seen)
            assert (best.weights.sha256, best.score) == (whole.generator.sha256, whole.score)  # gathered whole
    onward = distill(job("to-two"))
    if whole is not None and onward is not None:
        assert onward.score == pytest.approx(whole.score, rel=0.2)
        (Path(folder) / "score.json").write_text(json.dumps(whole.score))


def test_a_divided_run_that_is_stopped_or_killed_ends_with_the_same_bits_and_goes_on_in_any_layout(made: Bench) -> None:
    alone = made.job(SHORT, "to-two")
    _stopped(alone)
    record = _record(alone)
    assert record["schema_version"] == 2 and "parts" not in record
    files = {name: made.job(DIVIDED, name).file for name in ("whole", "stopped", "to-one", "to-two")}
    killed = made.job(DIVIDED, "killed")
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_processes(2, _killed, str(made.folder), killed.file)
    begun = [key.rpartition("/")[2] for key in made.store.list(f"{killed.folder}/checkpoints/")]
    assert [name for name in begun if name.startswith(("000000000064-", "000000000096-"))], begun
    files["killed"] = made.job(DIVIDED, "killed").file
    in_processes(2, _in_two, str(made.folder), files)
    result = distill(made.job(SHORT, "to-one"))
    score = json.loads((made.folder / "score.json").read_text())
    assert result is not None and result.score == pytest.approx(score, rel=0.2)
