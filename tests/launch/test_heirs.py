"""A TrainJob outlives its launching step: the next one's lease is its own, and without any it ends itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sida import recipe
from sida.errors import Fenced, SidaError, UserError
from sida.launch.spec import EncodeSpec, JobFile, Launch
from sida.launch.worker_error import WorkerError, forget_end, read_error
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.lease import acquire
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.conftest import ROOT
from tests.jobs import job_file, led

FOLDER, KEY = "jobs/distill/abc/1", "steps/distill/abc"


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def file(store: ObjectStore, launch: Launch | None) -> JobFile:
    """A job's file as its next launcher leaves it."""
    written = job_file(
        store, recipe.load("digits"), EncodeSpec(work="w", shard_bytes=1), FOLDER, led(store, KEY), launch
    )
    store.put(f"{FOLDER}/spec.json", written.to_json())
    return written


def worker_job(store: ObjectStore, launch: Launch | None) -> Job[Any]:
    return Job(file(store, launch), recipe.load("digits"), store, None)  # type: ignore[arg-type]


def on_nodes(store: ObjectStore, launch: Launch | None, nodes: int, monkeypatch: pytest.MonkeyPatch) -> Job[Any]:
    """A process's job with two processes on each node."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("SIDA_GRACE", "0.5")
    job = worker_job(store, launch)
    job.processes = Processes(0, 2 * nodes, torch.device("cpu"))
    return job


LAUNCH = Launch(job="sida-distill-1", abandoned_seconds=60)


def test_workers_go_on_under_the_lease_of_the_next_launcher_of_their_trainjob(store: ObjectStore) -> None:
    job = worker_job(store, LAUNCH)
    job.check()
    file(store, LAUNCH)
    job.check()
    job.publish("result.json", b"{}")
    assert store.read(f"{FOLDER}/result.json") == b"{}"


@pytest.mark.parametrize("launch", [None, Launch(job="sida-distill-2", abandoned_seconds=60)])
def test_any_other_writer_fences_them(store: ObjectStore, launch: Launch | None) -> None:
    job = worker_job(store, LAUNCH)
    file(store, launch)
    with pytest.raises(Fenced):
        job.check()


def test_workers_of_this_machine_have_no_heirs(store: ObjectStore) -> None:
    job = worker_job(store, None)
    file(store, None)
    with pytest.raises(Fenced):
        job.check()


def test_a_launcher_that_has_the_lease_but_does_not_say_so_is_waited_for_and_then_obeyed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sida.worker.job.HEIR_SECONDS", 0.1)
    job = worker_job(store, LAUNCH)
    led(store, KEY)
    with pytest.raises(Fenced):
        job.check()


WORKER = """
import sys, time
from sida.launch.abandoned import end_when_abandoned
from sida.settings import settings
from sida.stores import open_store
end_when_abandoned(open_store(settings().store), "distill", sys.argv[1], float(sys.argv[2]))
print("working", flush=True)
time.sleep(60)
"""


def worker(seconds: float, script: str = WORKER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, KEY, str(seconds)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_a_job_without_a_launcher_ends_itself_and_one_with_a_living_one_does_not(store: ObjectStore) -> None:
    with acquire(store, KEY, ttl=0.5, wait=0.0, note=lambda text: None), worker(2.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        time.sleep(3.0)
        assert process.poll() is None  # the launcher renews its lease
        process.kill()
    with worker(1.0) as process:
        _, said = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGTERM
        assert "no launching step for 1 s" in said


def test_a_launcher_that_could_not_renew_while_the_store_was_away_has_a_moment_to_do_so(store: ObjectStore) -> None:
    with acquire(store, KEY, ttl=0.5, wait=0.0, note=lambda text: None):
        pass
    time.sleep(2.0)
    with worker(1.0) as process:  # abandoned for longer: it does not even begin
        assert "working" not in process.communicate(timeout=30)[0]
    back = "from sida import patience\npatience._last_end = time.monotonic()\nend_when_abandoned("
    with worker(1.0, WORKER.replace("end_when_abandoned(", back, 1)) as process:
        said, _ = process.communicate(timeout=30)
        assert said == "working\n" and process.returncode == -signal.SIGTERM


# -- why workers failed


def test_the_error_of_the_worker_that_failed_first_is_published_and_a_later_start_s_replaces_it(
    store: ObjectStore,
) -> None:
    job = worker_job(store, None)
    assert read_error(store, f"{FOLDER}/spec.json") is None
    job.fail(UserError("recipe x: change\nmicro_batch"), 0)
    job.fail(RuntimeError("Connection closed by peer"), 0)  # another process noticed that the first was gone
    first = read_error(store, f"{FOLDER}/spec.json")
    assert first is not None
    assert (first.kind, first.message, first.exit_code) == ("UserError", "recipe x: change micro_batch", 2)
    job.fail(ValueError("no"), 1)
    later = read_error(store, f"{FOLDER}/spec.json")
    assert later == WorkerError(kind="ValueError", message="ValueError: no", exit_code=1, restart=1)


def test_a_process_that_was_fenced_publishes_no_error(store: ObjectStore) -> None:
    job = worker_job(store, None)
    led(store, KEY)
    job.fail(ValueError("no"), 0)
    job.fail(Fenced("another writer took over"), 0)
    assert read_error(store, f"{FOLDER}/spec.json") is None


def test_a_start_that_goes_on_from_a_queue_may_fail_for_a_reason_of_its_own(store: ObjectStore) -> None:
    job, key = worker_job(store, None), f"{FOLDER}/spec.json"
    job.fail(SidaError("stopped at 512 images, after a checkpoint: run again to continue"), 0)
    forget_end(store, key, 1)  # JobSet's restart: the reason of the start before stays, until there is a newer one
    assert read_error(store, key) is not None
    forget_end(store, key, 0)
    assert read_error(store, key) is None
    job.fail(UserError("recipe x: change micro_batch"), 0)
    error = read_error(store, key)
    assert error is not None and "micro_batch" in error.message


# -- one of a TrainJob's nodes is taken away


def test_a_node_that_was_not_asked_to_end_ends_after_the_one_that_was(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, looks = on_nodes(store, LAUNCH, 2, monkeypatch), 0

    def asked() -> bool:
        nonlocal looks
        looks += 1
        return looks > 2

    job.wait_for_the_asked(asked)
    assert looks == 3


@pytest.mark.parametrize(
    ("launch", "nodes", "asked", "waits"),
    [
        (LAUNCH, 2, False, True),  # no longer than pods are given
        (LAUNCH, 2, True, False),
        (LAUNCH, 1, False, False),
        (None, 2, False, False),
    ],
)
def test_it_waits_only_for_another_node_and_not_for_ever(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, launch: Launch | None, nodes: int, asked: bool, waits: bool
) -> None:
    job, began = on_nodes(store, launch, nodes, monkeypatch), time.monotonic()
    job.wait_for_the_asked(lambda: asked)
    assert (time.monotonic() - began >= 0.4) is waits
