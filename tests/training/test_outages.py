"""A store that goes away while a distillation runs: training goes on, the newest checkpoint waits, and the bits are the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sida import progress
from sida.errors import Fenced, SidaError, Unavailable
from sida.launch.spec import parse_outcome
from sida.stores import ObjectStore, open_store
from sida.stores.lease import acquire
from sida.training import writer
from sida.training.checkpoint import Checkpoint, newest
from sida.training.distill_loop import distill
from sida.training.iteration import Distillation
from sida.training.writer import Writer
from sida.worker.job import Job
from tests.conftest import ROOT
from tests.stores.outage import Way, hasten, way_to
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.training.digits_job import Bench, bench

ADDRESS = f"s3://{BUCKET}/outages"
LINES = r"distill: (the store at \S+) is away since \S+.* \(.+\): (.+)\ndistill: \1 is back after \d+ s\n"


@pytest.fixture(scope="module")
def way(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with way_to(s3_endpoint) as opened, pytest.MonkeyPatch.context() as patch:
        for name in ("SIDA_EVENTS", "SIDA_NODES"):
            patch.delenv(name, raising=False)
        patch.setenv("SIDA_STORE", ADDRESS)
        patch.setenv("SIDA_S3_ENDPOINT", opened.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("SIDA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SIDA_RUNS", str(tmp_path_factory.mktemp("runs")))
        torch.set_num_threads(1)
        yield opened


@pytest.fixture(scope="module")
def made(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def undisturbed(made: Bench) -> dict[str, Any]:
    return distill(made.job(name="undisturbed"))


@pytest.fixture
def direct(made: Bench, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same store by a way that is always open."""
    with monkeypatch.context() as patch:
        patch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
        return open_store(ADDRESS)


@pytest.fixture(autouse=True)
def quick(made: Bench, way: Way, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses of tenths of seconds; each test ends with an open way."""
    hasten(monkeypatch)
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.1)
    monkeypatch.setenv("SIDA_PATIENCE", "60")
    progress.work_on("distill")
    yield
    way.open()


def at(monkeypatch: pytest.MonkeyPatch, moments: dict[int, Callable[[], object]]) -> None:
    """Do something in the iterations that begin at so many images."""
    run = Distillation.run

    def doing(self: Distillation, seen: int, record: Any = None) -> Any:
        if seen in moments:
            moments[seen]()
        return run(self, seen, record)

    monkeypatch.setattr(Distillation, "run", doing)


def places(store: ObjectStore, name: str) -> list[int]:
    keys = store.list(f"jobs/distill/{name}/1/checkpoints/")
    return [int(key.rsplit("/", 1)[1].partition("-")[0]) for key in keys]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said but for the training's own progress."""
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if not re.search(r" of [\d,]+ images \(", line))


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_training_goes_on_while_the_store_is_away_and_ends_with_the_same_bits(
    made: Bench,
    way: Way,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(monkeypatch, {64: way.shut, 224: way.open})  # five iterations, with checkpoints, a selection and its picture
    result = distill(made.job(name="during"))
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)
    said = re.fullmatch(LINES, told(capsys))
    assert said is not None and said[2] == "training goes on, its checkpoints wait"
    assert places(made.store, "during")[-1] == 256
    pictures = [key.rsplit("/", 1)[1] for key in made.store.list("jobs/distill/during/1/samples/")]
    assert pictures == [f"{n:012d}.png" for n in (64, 128, 192, 256)]


def test_the_end_of_a_training_waits_for_the_store(
    made: Bench,
    way: Way,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(monkeypatch, {224: lambda: way.shut_for(4.0)})
    result = distill(made.job(name="end"))
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)
    assert re.fullmatch(LINES, told(capsys))


def test_the_start_of_a_training_waits_for_the_store(
    made: Bench,
    way: Way,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))  # everything is to be fetched anew
    job = made.job(name="start")
    way.shut_for(2.0)
    assert distill(job).generator == undisturbed.generator
    said = re.fullmatch(LINES, told(capsys))
    assert said is not None and said[2] == "waiting up to 1 min for it (SIDA_PATIENCE)"


def test_a_training_that_was_taken_over_while_the_store_was_away_publishes_nothing_more(
    made: Bench, way: Way, direct: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made.job(name="taken")

    def take_over() -> None:
        with acquire(direct, "steps/taken", ttl=600):
            pass
        way.open()

    def shut() -> None:
        until(lambda: places(direct, "taken")[-1:] == [96])
        way.shut()

    at(monkeypatch, {96: shut, 192: take_over})
    with pytest.raises(Fenced):
        distill(job)
    assert max(places(direct, "taken")) == 96


def test_when_patience_ends_the_run_says_so_and_the_next_one_goes_on(
    made: Bench, way: Way, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, direct: ObjectStore
) -> None:
    seen: list[int] = []

    def shut() -> None:
        until(lambda: places(direct, "lost")[-1:] == [128])
        way.shut()

    at(monkeypatch, {128: shut, 224: lambda: seen.append(224)})
    monkeypatch.setenv("SIDA_PATIENCE", "1")
    with pytest.raises(Unavailable, match=r"cannot reach .* \(it stayed away for \d+ s, SIDA_PATIENCE\)"):
        distill(made.job(name="lost"))
    assert seen == [224]  # it trained to the end first
    monkeypatch.undo()
    way.open()
    job = made.job(name="lost")
    found = newest(job)
    assert found is not None and found.seen == 128
    assert distill(job).generator == undisturbed.generator


def test_a_training_that_is_asked_to_stop_while_the_store_is_away_does_not_wait_long(
    made: Bench, way: Way, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STOP_SECONDS", 1.0)
    asked: list[float] = []

    def stop() -> None:
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    at(monkeypatch, {64: way.shut, 160: stop})
    with pytest.raises(Unavailable):
        distill(made.job(name="asked"))
    assert time.monotonic() - asked[0] < 20
    monkeypatch.undo()
    way.open()
    assert distill(made.job(name="asked")).generator == undisturbed.generator


def test_of_checkpoints_that_wait_only_the_newest_is_written(made: Bench, way: Way, direct: ObjectStore) -> None:
    job = made.job(name="newest")
    writes = Writer(job, keep=5)
    way.shut()
    started = time.monotonic()
    for seen in (32, 64, 96, 128):
        writes.save(Checkpoint(seen, {}, {"a": torch.full((3,), float(seen))}))
        until(lambda seen=seen: writes._filed is not None and writes._filed.seen == seen)  # type: ignore[misc]
    assert time.monotonic() - started < 20
    way.open()
    writes.wait()
    writes.close()
    assert places(direct, "newest") == [128]
    found = newest(job)
    assert found is not None and torch.equal(found.tensors["a"], torch.full((3,), 128.0))


def test_a_failure_that_does_not_pass_ends_the_training_although_the_store_was_away_before(
    made: Bench, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise SidaError("the disk is full")

    writes = Writer(made.job(name="refused"), keep=2)
    way.shut()
    writes.save(Checkpoint(32, {}, {"a": torch.zeros(3)}))
    until(lambda: writes._away is not None)
    monkeypatch.setattr(Job, "put", refuse)
    way.open()
    with pytest.raises(SidaError, match="the disk is full"):
        writes.wait()
    with pytest.raises(SidaError, match="the disk is full"):
        writes.save(Checkpoint(64, {}, {"a": torch.zeros(3)}))
    writes.close()


# -- the worker's process, as in a pod that is started again


def worker(name: str, job: Job, seconds: str) -> subprocess.Popen[str]:
    job.store.put(f"{job.folder}/spec.json", job.file.to_json())
    command = [sys.executable, "-m", "sida.worker", "--job", f"{job.folder}/spec.json"]
    environment = os.environ | {"SIDA_PATIENCE": seconds, "SIDA_EVENTS": "-"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_worker_that_starts_while_the_store_is_away_waits_for_it(
    made: Bench, way: Way, undisturbed: dict[str, Any]
) -> None:
    job = made.job(name="pod")
    with worker("pod", job, "60") as process:
        way.shut()
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert (line["event"], line["step"]) == ("note", "distill") and "waiting up to 1 min for it" in line["text"]
        way.open()
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert rest.count("is back after") == 1 and "urllib3" not in rest and "Retrying" not in rest
    result = parse_outcome(job.folder, job.spec, made.store.read(f"{job.folder}/result.json"), "result.json")
    assert result.generator == undisturbed.generator


def test_a_worker_that_waited_in_vain_ends_with_a_status_of_its_own_and_one_line(made: Bench, way: Way) -> None:
    job = made.job(name="vain")
    with worker("vain", job, "1") as process:
        threading.Timer(0.1, way.shut).start()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert events[-1]["event"] == "error" and events[-1]["exit_code"] == 75
    assert "Traceback" not in said
