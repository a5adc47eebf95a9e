"""32 processes that run one step at once: it is made once, on both stores, and whoever is killed leaves nothing half-made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from sida.manifests import TeacherResult
from sida.recipe import Recipe
from sida.settings import settings
from sida.steps import StepRun, step
from sida.stores import lease as leases
from sida.stores import open_store
from tests.racing import racers

FOLDER_OF_MARKS = "SIDA_TEST_MARKS"


@step(version=1, sources=("sida/errors.py",))
def raced(run: StepRun, recipe: Recipe) -> TeacherResult:
    """Leave a mark whenever it is really made."""
    run.claim({})
    marks = Path(os.environ[FOLDER_OF_MARKS])
    (marks / f"{os.getpid()}").touch()
    weights = run.put(b"weights", "w.safetensors")
    if (marks / "die").exists():
        (marks / "die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return TeacherResult(network={}, weights=weights, source_sha256="0" * 64, licence="none")


def _run(attempt: str = "") -> tuple[str, str]:
    from sida.recipe import load

    published = raced(recipe=load("digits"), attempt=attempt)
    return published.address, published.manifest.digest


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def marks(request: pytest.FixtureRequest, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for marks; the environment names a store."""
    if request.param == "s3":
        from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

        monkeypatch.setenv("SIDA_S3_ENDPOINT", request.getfixturevalue("s3_endpoint"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("SIDA_STORE", f"s3://{BUCKET}/{place.name}")
    monkeypatch.setenv("SIDA_LEASE_WAIT", "120")
    monkeypatch.setenv("SIDA_EVENTS", str(place / "events"))
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.1)
    folder = place / "marks"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_OF_MARKS, str(folder))
    return folder


def test_of_32_processes_one_makes_the_result_and_all_see_it(marks: Path) -> None:
    with racers(32) as pool:
        seen = {job.get(180) for job in [pool.apply_async(_run) for _ in range(32)]}
    assert len(list(marks.iterdir())) == 1
    assert len(seen) == 1


def test_forced_attempts_at_once_get_numbers_of_their_own_and_latest_names_the_last(marks: Path) -> None:
    with racers(8) as pool:
        seen = {job.get(180)[0] for job in [pool.apply_async(_run, ("new",)) for _ in range(8)]}
    assert len(seen) == len(list(marks.iterdir())) == 8
    store = open_store(settings().store)
    (latest,) = [key for key in store.list("steps/raced/") if key.endswith("/latest")]
    assert store.read(latest) == b"8"


def test_after_a_maker_was_killed_the_next_one_makes_it_whole(marks: Path) -> None:
    (marks / "die").touch()
    killed = multiprocessing.get_context("fork").Process(target=_run)
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    store = open_store(settings().store)
    assert not store.list("steps/")
    address, _ = _run()
    assert address.endswith("/1.json") and len(list(marks.iterdir())) == 2
