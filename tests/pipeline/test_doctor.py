"""``python -m pipeline doctor``: what is wrong is named, with what it prevents and how to mend it; the rest is still checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import NAMES
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp


@pytest.fixture
def nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is configured."""
    monkeypatch.setenv("KUBECONFIG", str(place / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def told(command: Command, *arguments: str) -> tuple[int, dict[str, Any]]:
    said = command("doctor", "--json", *arguments)
    assert said.err == ""
    return said.status, {check["name"]: check for check in json.loads(said.out)["checks"]}


@pytest.mark.usefixtures("nowhere")
def test_a_laptop_without_cluster_is_ready_and_nothing_is_left_in_the_store(command: Command) -> None:
    status, checks = told(command)
    assert list(checks) == list(NAMES)
    assert {name for name, check in checks.items() if check["state"] == "bad"} <= {"disk"}
    assert status == (checks["disk"]["state"] == "bad")
    assert checks["store"]["state"] == "ok"
    assert checks["kubernetes"]["state"] == checks["trainer"]["state"] == checks["kfp"]["state"] == "off"
    assert not [file for file in (command.place / "store").rglob("doctor/*")]
    said = command("doctor")
    assert "ok  python" in said.out


@pytest.mark.usefixtures("nowhere")
def test_a_store_that_cannot_be_written_is_bad_and_the_other_checks_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.place / "file").write_text("")
    monkeypatch.setenv("SIDA_STORE", f"file://{command.place}/file/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:1")
    status, checks = told(command)
    assert status == 1
    for name in ("store", "mlflow"):
        assert checks[name]["state"] == "bad"
        assert checks[name]["prevents"]
        assert checks[name]["mend"]
    assert "hunter2" not in json.dumps(checks)
    assert checks["python"]["state"] == "ok"


@pytest.mark.usefixtures("nowhere")
def test_a_profile_s_kubeflow_is_asked(command: Command, kfp: Kfp) -> None:
    status, checks = told(command, "--profile", command.profile())
    assert checks["kfp"]["state"] == "ok", checks
    command.host = "http://127.0.0.1:1"
    status, checks = told(command, "--profile", command.profile(name="other.yaml"))
    assert (status, checks["kfp"]["state"]) == (1, "bad")
    assert "kfp.host" in checks["kfp"]["mend"]


def test_a_profile_that_is_not_there_is_one_line(command: Command) -> None:
    assert "nothing" in command("doctor", "--profile", "./nothing.yaml").mistake()
