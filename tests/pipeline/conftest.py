"""The command line in this process, alone and with a stand-in for Kubeflow Pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp, serve


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("HOME", str(place))  # kfp keeps a context there
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(place / "no-kubeconfig"))  # no cluster and no store, but what a test brings
    monkeypatch.setenv("SIDA_S3_ENDPOINT", "http://127.0.0.1:1")
    return Command(place, monkeypatch, capsys)


@pytest.fixture
def kfp(command: Command) -> Iterator[Kfp]:
    """The stand-in's memory; the command's profiles name its address."""
    with serve() as (address, memory):
        command.host = address
        yield memory
