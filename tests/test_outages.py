"""Steps and their processes while the store is away: they wait, say so once, and publish nothing under a lost lease."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sida import patience, progress, recipe, records
from sida.errors import Fenced, Unavailable, UserError
from sida.manifests import TeacherResult
from sida.recipe import Recipe
from sida.settings import settings
from sida.steps import StepRun, step
from sida.steps.execute import execute
from sida.stores import ObjectStore, open_store
from sida.stores.lease import acquire
from tests.conftest import ROOT
from tests.stores.outage import Way, hasten, way_to
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

RECIPE = recipe.load("digits")
TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
AWAY = r"the store at \S+ is away since \S+.* \(.+\): waiting up to (.+) for it \(SIDA_PATIENCE\)"
BACK = r"the store at \S+ is back after \d+ s"
during: list[Callable[[], object]] = []


@step(version=1, sources=("sida/errors.py",))
def toy(run: StepRun, recipe: Recipe) -> TeacherResult:
    run.claim({})
    ref = run.put(b"weights", "toy.safetensors")
    for act in during:
        act()
    return TeacherResult(network={}, weights=ref, source_sha256=ref.sha256, licence="none")


@pytest.fixture
def way(place: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The only way of this test and its processes to their store on S3."""
    hasten(monkeypatch)
    monkeypatch.setenv("SIDA_PATIENCE", "30s")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("SIDA_STORE", f"s3://{BUCKET}/{place.name}")
    during.clear()
    with way_to(s3_endpoint) as opened:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", opened.endpoint)
        yield opened
    progress.work_on("")


@pytest.fixture
def direct(way: Way, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same store by a way that is always open."""
    with monkeypatch.context() as patch:
        patch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
        return open_store(settings().store)


class Output:
    def __init__(self, folder: Path) -> None:
        self.path, self.metadata = str(folder / "output"), dict[str, str]()


def test_a_step_publishes_when_the_store_is_back(
    way: Way, place: Path, direct: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    during.append(lambda: way.shut_for(2.5))
    made = execute(toy, Output(place), run_id="run-1", recipe=RECIPE)
    assert records.calls(direct, "run-1")["toy"].state == "ran"
    said = capsys.readouterr().err.splitlines()
    assert sum(bool(re.fullmatch(f"toy: {AWAY}", line)) for line in said) == 1
    assert sum(bool(re.fullmatch(f"toy: {BACK}", line)) for line in said) == 1
    during.clear()
    assert toy(recipe=RECIPE).address == made.address


def test_a_step_that_was_taken_over_while_the_store_was_away_publishes_nothing(
    way: Way, direct: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sida.settings.SHORTEST_LEASE_SECONDS", 0.5)
    monkeypatch.setenv("SIDA_LEASE_SECONDS", "0.5")
    taken: list[Any] = []

    def taken_over() -> None:
        way.shut()
        (key,) = {key.rpartition("/")[0] for key in direct.list("leases/steps/toy/")}
        with monkeypatch.context() as patch:
            patch.setattr(patience, "settled_for", lambda: float("inf"))
            patch.setattr("sida.stores.lease.SLACK_SECONDS", 0.1)
            taken.append(acquire(direct, key.removeprefix("leases/"), ttl=60, wait=10))
        threading.Timer(1.0, way.open).start()

    during.append(taken_over)
    with pytest.raises(Fenced):
        toy(recipe=RECIPE)
    assert not direct.list("steps/toy/")
    taken[0].release()


def test_a_step_that_waited_in_vain_ends_with_a_status_of_its_own_and_its_own_error(
    way: Way, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", "1")
    during.append(way.shut)
    with pytest.raises(SystemExit) as caught:
        execute(toy, Output(place), run_id="run-1", recipe=RECIPE)
    assert caught.value.code == 75
    assert isinstance(caught.value.__cause__, Unavailable)
    said = capsys.readouterr().err
    assert "its failure is not recorded: cannot reach" in said
    assert re.search(r"error: cannot reach .* \(it stayed away for \d+ s, SIDA_PATIENCE\)\n$", said)


def step(seconds: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "components", "fetch_teacher", f"--recipe={TINY}", "--run-id=run-1"]
    environment = os.environ | {"SIDA_PATIENCE": seconds}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_a_step_s_process_waits_at_its_start_and_shows_two_lines_of_that(way: Way, direct: ObjectStore) -> None:
    way.shut()
    with step("15m") as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        way.open()
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    away = re.fullmatch(f"fetch_teacher: {AWAY}\n", first)
    assert away is not None and away[1] == "15 min"
    assert len(re.findall(BACK, rest)) == 1 and "is away" not in rest and "Retry" not in rest and "urllib3" not in rest
    assert records.calls(direct, "run-1")["fetch_teacher"].state == "ran"


def test_a_step_s_process_that_waits_in_vain_ends_in_one_line(way: Way) -> None:
    way.shut()
    with step("1") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Traceback" not in said and said.splitlines()[-1].startswith("fetch_teacher: error: cannot reach")


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 60), ("0", 0), ("47", 47), ("90s", 90), ("15m", 900), ("1.5h", 5400)]
)
def test_patience_is_seconds_or_a_duration(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", text)
    assert settings().patience == seconds


@pytest.mark.parametrize("text", ["soon", "15 minutes", "-1", "1d", "inf", "1e9", "m"])
def test_patience_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", text)
    with pytest.raises(
        UserError, match=r"SIDA_PATIENCE='.*' is not a duration: write seconds, or such as 90s, 15m, 2h"
    ):
        settings()
