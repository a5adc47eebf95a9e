"""Progress for a TrainJob's own status, against a server that asks for what Kubeflow Trainer's asks for."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sida import progress
from sida.worker.trainer_status import ADDRESS, CERTIFICATE, TOKEN, reported, status_of
from tests.launch.crds import errors

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/work/trainjobs/sida-distill-1/status"
EVENT = {"done": 1024, "total": 8192, "unit": "images", "rate": 310.25, "numbers": {"loss_psi": 0.4123456789}}


class Status:
    """What arrived."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.answer = 200


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Status]:
    memory, certificate, key, token = Status(), tmp_path / "ca.crt", tmp_path / "key", tmp_path / "token"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(made, check=True, capture_output=True)
    token.write_text("t0ken\n")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            good = self.path == PATH and self.headers["Authorization"] == "Bearer t0ken"
            if good and memory.answer == 200:
                memory.reports.append(json.loads(body)["trainerStatus"])
            self.send_response(memory.answer if good else 403)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv(ADDRESS, f"https://localhost:{server.server_port}{PATH}")
    monkeypatch.setenv(CERTIFICATE, str(certificate))
    monkeypatch.setenv(TOKEN, str(token))
    monkeypatch.setenv("SIDA_EVENTS", str(tmp_path / "events"))
    try:
        yield memory
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tell(done: int) -> None:
    progress.emit("progress", "distill", **EVENT | {"done": done})


def test_the_newest_progress_is_reported_now_and_then_and_in_the_end(status: Status) -> None:
    with reported("distill", pause=0.1):
        for done in range(100):
            tell(done)
        end = time.monotonic() + 10
        while not status.reports:
            assert time.monotonic() < end
            time.sleep(0.01)
        tell(8192)
    assert len(status.reports) <= 3
    last = status.reports[-1]
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    tell(1)  # after the end nobody hears
    assert status.reports[-1] == last


def test_a_report_is_one_that_the_real_crd_takes() -> None:
    said = status_of(EVENT)
    assert (said["progressPercentage"], said["estimatedRemainingSeconds"]) == (12, 23)
    metrics = {metric["name"]: metric["value"] for metric in said["metrics"]}
    assert metrics == {"images_seen": "1024", "images_per_second": "310.25", "loss_psi": "0.412346"}
    job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "x"}}
    spec = {"runtimeRef": {"name": "sida-torch"}}
    assert errors(job | {"spec": spec, "status": {"trainerStatus": said}}) == errors(job | {"spec": spec})
    assert errors(job | {"spec": spec, "status": {"trainerStatus": said | {"nonsense": 1}}})


def test_a_server_that_refuses_is_told_once_and_disturbs_nothing(status: Status, tmp_path: Path) -> None:
    status.answer = 500
    with reported("distill", pause=0.02):
        for done in range(5):
            tell(done)
            time.sleep(0.05)
    assert (tmp_path / "events").read_text().count("status does not show the progress: HTTPError: HTTP Error 500") == 1


def test_without_what_trainer_gives_its_pods_nothing_is_reported(
    status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    with reported("distill", pause=0.01):
        tell(1)
        time.sleep(0.1)
    assert status.reports == []
