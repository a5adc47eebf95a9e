"""Runs of the real pipeline in MLflow: stopped, continued, repeated, failed; then the same in a server that was away."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sida import records
from sida.settings import settings
from sida.stores import open_store
from tests.conftest import ROOT
from tests.test_whole_dag import TINY
from tests.tracking.conftest import Server
from tests.tracking.test_tracking import client

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # MLflow's own dependencies warn


def pipeline(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200, env=os.environ | variables
    )


def ended_while_distilling(number: signal.Signals) -> int:
    """The exit status of a run that gets a signal once its last step so far is distill."""
    store = open_store(settings().store)
    before = set(records.runs(store))
    command = [sys.executable, "-m", "pipeline", "run", str(TINY)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as begun:
        while not any("distill" in records.calls(store, run) for run in set(records.runs(store)) - before):
            assert begun.poll() is None
            time.sleep(0.5)
        begun.send_signal(number)
        begun.communicate(timeout=600)
    return begun.returncode


def tree(address: str, of: str = "tiny (SiDA)") -> dict[str, tuple[str, Any]]:
    """name -> (status, how many points each metric has) of the runs of a recipe; fails when a name is there twice.

    The server is shared: other tests' runs of the same benchmark are in it too.
    """
    there = client(address)
    found: dict[str, tuple[str, Any]] = {}
    for run in there.search_runs([there.get_experiment_by_name("digits-8x8").experiment_id]):
        if not run.info.run_name.endswith(of):
            continue
        assert run.info.run_name not in found
        points = {name: len(there.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}
        found[run.info.run_name] = (run.info.status, points)
    return found


def test_a_run_that_is_stopped_continued_and_repeated_is_one_run_whose_repetition_is_cheap(
    place: Path, empty_database: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, place / "mlflow.db")
    address = f"sqlite:///{place / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert ended_while_distilling(signal.SIGINT) == 130
    assert tree(address) == {"tiny (SiDA)": ("KILLED", {})}

    assert ended_while_distilling(signal.SIGKILL) == -signal.SIGKILL
    assert pipeline("track").returncode == 0  # nobody else could say it
    assert tree(address) == {"tiny (SiDA)": ("FAILED", {})}

    assert pipeline("run", TINY).returncode == 0
    first = tree(address)
    assert {status for status, _ in first.values()} == {"FINISHED"}
    assert set(first) == {"tiny (SiDA)", "distill: tiny (SiDA)", "score: tiny (SiDA)"}

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = pipeline("run", TINY, PYTHONPROFILEIMPORTTIME="1")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert again.returncode == 0 and "8 of 8 steps reused" in again.stdout
    imported = [line for line in again.stderr.splitlines() if line.startswith("import time:")]
    assert imported and not [line for line in imported if line.rpartition("|")[2].strip().split(".")[0] == "mlflow"]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 15, spent  # seconds of CPU time, of all processes
    assert tree(address) == first

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)  # what was written here can be written there
    assert pipeline("track").returncode == 0
    assert tree(server.address) == first


def test_a_run_that_fails_is_failed_in_mlflow_and_a_dead_server_changes_nothing_about_its_end(
    place: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(TINY, place / "tiny.yaml")
    strict = place / "strict.yaml"
    strict.write_text("extends: tiny\nname: strict\ngate: {teacher_at_most: 1e-6}\n")
    shutil.copy(empty_database, place / "mlflow.db")
    address = f"sqlite:///{place / 'mlflow.db'}"
    ended = pipeline("run", strict, MLFLOW_TRACKING_URI=address)
    assert ended.returncode != 0
    ((status, _),) = tree(address, "strict (SiDA)").values()
    assert status == "FAILED"
    dead = pipeline("run", strict, "--force", "prepare_data", MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert dead.returncode == ended.returncode
    assert "tracking: MLflow at http://127.0.0.1:1 does not answer" in dead.stderr
