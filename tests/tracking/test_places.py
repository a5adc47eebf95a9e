"""Where a run's files go: to the place that was looked at, whatever a server says of it afterwards."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sida.stores import ObjectStore
from sida.tracking.reconcile import track_quietly
from tests.tracking.runs import Made, recipe

THROUGH = "mlflow-artifacts:/7/artifacts"


class Fickle(ThreadingHTTPServer):
    """An MLflow that says where files go, so often the truth, and then another place."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.truths, self.other = 0, ""
        self.looks: Counter[str] = Counter()
        self.sent: list[str] = []  # files

    def place(self, of: str) -> str:
        self.looks[of] += 1
        return THROUGH if self.looks[of] <= self.truths else self.other

    def run(self, of: str, place: str) -> dict[str, Any]:
        info = {"run_id": of, "run_uuid": of, "experiment_id": "7", "status": "RUNNING", "artifact_uri": place}
        return {"run": {"info": info, "data": {}}, "run_info": info}

    def answer(self, method: str, path: str, asked: dict[str, Any]) -> Any:
        info = {"model_id": "m-1", "experiment_id": "7", "name": "x", "creation_timestamp_ms": 1}
        match path:
            case "experiments/get-by-name":
                return {"experiment": {"experiment_id": "7", "name": "x", "lifecycle_stage": "active"}}
            case "runs/create":
                return self.run("".join(filter(str.isalnum, asked["run_name"])), THROUGH)
            case "runs/get":
                return self.run(asked["run_id"], self.place(asked["run_id"]))
            case "runs/update":
                return self.run("x", THROUGH)
            case "logged-models/search":
                return {"models": []}
            case "registered-models/alias":
                return {"model_version": {"name": "x", "version": "1", "status": "READY"}}
            case _ if path.startswith("logged-models"):
                return {"model": {"info": {**info, "artifact_uri": self.place("m-1")}, "data": {}}}
            case _ if path.startswith("model-versions"):
                return {"model_versions": [], "model_version": {"name": "x", "version": "1", "status": "READY"}}
        return {"registered_model": {"name": "x"}, "files": []}


class Answers(BaseHTTPRequestHandler):
    server: Fickle

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        if self.command == "PUT":
            self.server.sent.append(url.path.partition("/artifacts/")[2])
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        asked |= json.loads(body) if body and self.command != "PUT" else {}
        said = json.dumps(self.server.answer(self.command, url.path.partition("/mlflow/")[2], asked)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def fickle(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fickle]:
    with Fickle() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield server
        server.shutdown()


@pytest.mark.parametrize("truths", [0, 1, 2, 3, 1000])
def test_files_go_where_they_were_said_to_when_that_was_checked(
    fickle: Fickle, store: ObjectStore, tmp_path: Path, truths: int
) -> None:
    victim = tmp_path / "victim"
    fickle.truths, fickle.other = truths, victim.as_uri()
    line = track_quietly(Made(store, recipe(name="digits-fickle"), (1.0, 1.01, 0.99)).write("run-1"))
    assert not victim.exists()
    if truths == 1000:
        assert line == "" and {"7/artifacts/report.html", "7/artifacts/generator.json"} <= set(fickle.sent)
    else:
        assert "neither through itself" in line or truths > 1
