"""A job is continued on another number of processes than it was begun on, and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sida import recipe
from sida.launch.spec import EncodeSpec
from sida.layout import PROCESSES
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.worker.job import Job
from sida.worker.layout import note_layout
from sida.worker.ranks import Processes
from tests.conftest import ROOT
from tests.jobs import job_file, led

FOLDER, KEY = "jobs/distill/abc/1", "steps/distill/abc"


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def noted(
    store: ObjectStore, processes: int, nodes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a job's start on so many says."""
    monkeypatch.delenv("SIDA_EVENTS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes // nodes))
    file = job_file(store, recipe.load("digits"), EncodeSpec(work="w", shard_bytes=1), FOLDER, led(store, KEY), None)
    store.put(f"{FOLDER}/spec.json", file.to_json())
    job: Job[Any] = Job(file, recipe.load("digits"), store, Processes(0, processes, torch.device("cpu")))
    note_layout(job)
    return capsys.readouterr().err


def test_a_start_on_other_processes_or_nodes_says_so_where_there_is_something_to_continue(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(processes: int, nodes: int = 1) -> str:
        return noted(store, processes, nodes, monkeypatch, capsys)

    assert start(1) == ""
    assert start(2) == ""  # killed before its first checkpoint
    store.put(f"{FOLDER}/checkpoints/000000000512-00000001.json", b"{}")
    assert start(2) == ""
    assert start(1).splitlines()[-1].endswith("distill: continuing on 1 process (was 2)")
    assert start(4, 2).endswith("distill: continuing on 2 nodes with 4 processes (was 1 node with 1)\n")
    store.put(f"{FOLDER}/{PROCESSES}", b"damaged")
    assert start(2) == ""
    assert json.loads(store.read(f"{FOLDER}/{PROCESSES}")) == {"processes": 2, "nodes": 1}


@pytest.mark.slow
def test_a_run_killed_on_one_process_goes_on_with_two_then_four_then_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = place / "longer.yaml"
    longer.write_text(
        f"extends: {ROOT}/tests/recipes/tiny\nname: longer\nmethod: {{images: 4_096}}\n"
        "execution: {checkpoint_every: 256}\nexpected: null\n"
    )
    monkeypatch.delenv("SIDA_EVENTS", raising=False)

    def start(workers: int, *verb: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline", *(verb or ("run", str(longer), "--json"))]
        environment = os.environ | {"SIDA_WORKERS": str(workers)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    refused = start(3)
    assert "does not divide among 3 processes" in refused.communicate(timeout=60)[1] and refused.returncode == 2
    assert not list(place.glob("store/runs/*"))
    for workers, before, until_images in ((1, 0, 512), (2, 1, 1_024), (4, 2, 1_536)):
        run = start(workers)
        end = time.monotonic() + 300
        while _images(place) < until_images:
            assert run.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        run.send_signal(signal.SIGKILL)
        said = run.communicate(timeout=60)[1]
        assert (f"continuing on {workers} processes (was {before})" in said) == bool(before), said
    (run_id, *_) = (path.name for path in place.glob("store/runs/*"))
    last = start(1, "rerun", run_id, "distill", "--local")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert "continuing on 1 process (was 4)" in said and "continuing from the checkpoint at" in said
    (manifest,) = place.glob("store/steps/distill/*/1.json")
    assert json.loads(manifest.read_text())["result"]["selection_score"] < 5  # its teacher has 28


def _images(place: Path) -> int:
    """Images seen at the newest checkpoint."""
    names = (path.name for path in place.glob("store/jobs/distill/*/1/checkpoints/*.json"))
    return max((int(name.partition("-")[0]) for name in names), default=0)
