"""32 processes that run one step at once: it is made once, on both stores, and whoever is killed leaves nothing half-made."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from sida.errors import UserError
from sida.manifests import TeacherResult
from sida.recipe import Recipe
from sida.settings import settings
from sida.steps import StepRun, garbage, step
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


# -- steps and the collection of garbage

CONTENTS = (b"one" * 1000, b"two" * 1000, b"three" * 1000)  # every object is garbage now and then, and wanted again


@step(version=1, sources=("sida/errors.py",))
def stored(run: StepRun, recipe: Recipe, worker: int = 0, content: bytes = b"") -> TeacherResult:
    """Store what another one may have stored, in a key that nobody else has."""
    run.claim({"worker": worker})
    weights = run.put(content, "w.safetensors")
    return TeacherResult(network={}, weights=weights, source_sha256="0" * 64, licence="none")


def _store_again_and_again(worker: int, rounds: int) -> list[str]:
    """Return what the newest manifest of a key named in vain."""
    from sida.recipe import load

    recipe, store, chance, lost = load("digits"), open_store(settings().store), random.Random(worker), []
    pause = 0.3 if store.address.startswith("s3") else 0.1  # a collection there takes longer
    for number in range(rounds):
        content = CONTENTS[chance.randrange(len(CONTENTS))]
        made = stored(recipe=recipe, worker=worker, content=content, attempt="new" if number % 4 else "")
        for _ in range(3):
            lost += [ref.key for ref in made.manifest.objects() if not store.exists(ref.key)]
            if not store.exists(made.address.removeprefix(f"{store.address}/")):
                lost.append(made.address)
            time.sleep(chance.random() * pause)
    return lost


def _collect_again_and_again(marks: str) -> tuple[int, int]:
    """Collect until told to stop; return how many objects were removed, and how often a step was in the way."""
    store, removed, refused = open_store(settings().store), 0, 0
    while not (Path(marks) / "stop").exists():
        try:
            removed += len(garbage.remove_garbage(store).objects)
        except UserError:
            refused += 1
        time.sleep(0.02)
    return removed, refused


@pytest.mark.parametrize(
    ("marks", "rounds"),
    [
        ("folder", 30),
        ("s3", 5),
        pytest.param("folder", 300, marks=pytest.mark.slow),
        pytest.param("s3", 100, marks=pytest.mark.slow),
    ],
    indirect=["marks"],
)
def test_no_result_names_what_was_collected_while_it_was_made(
    marks: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    monkeypatch.setattr(garbage, "GRACE_SECONDS", 0.02)
    monkeypatch.setattr(garbage, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    with racers(3) as pool:
        collecting = pool.apply_async(_collect_again_and_again, (str(marks),))
        lost = [pool.apply_async(_store_again_and_again, (worker, rounds)) for worker in range(2)]
        try:
            assert [job.get(600) for job in lost] == [[], []]
        finally:
            (marks / "stop").touch()
        removed, refused = collecting.get(60)
    assert rounds < 30 or (removed and refused)  # or it was no race
