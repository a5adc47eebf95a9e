"""A real MLflow server (SQLite behind it, artifacts through its proxy), and a SQLite file, for the same tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from sida.settings import settings
from sida.stores import ObjectStore, open_store


class Server:
    """``mlflow server`` on a port of this machine, stopped and started at will."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database = folder, database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": ""}
        variables |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes that nobody needs
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=variables, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib3.request("GET", f"{self.address}/health", retries=False, timeout=2)
                return
            except urllib3.exceptions.HTTPError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-2000:]
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    code = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S; S(*sys.argv[1:])"
    variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}", str(path.parent / "artifacts")],
        check=True,
        capture_output=True,
        env=variables,
    )
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    server = Server(folder, folder / "mlflow.db")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, place: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> str:
    """MLFLOW_TRACKING_URI, set. A server is shared by the tests: they use names of their own."""
    if request.param == "sqlite":
        (place / "mlflow.db").write_bytes(empty_database.read_bytes())
        address = f"sqlite:///{place / 'mlflow.db'}"
    else:
        address = request.getfixturevalue("server").address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return str(address)


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)
