"""An MLflow that is away is waited for a little, and never stops a run."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sida.stores import ObjectStore
from sida.tracking.links import mlflow_link
from sida.tracking.reconcile import track_quietly
from sida.tracking.server import TrackingOff, check, check_artifacts
from tests.stores.outage import Way, way_to
from tests.tracking.runs import Made, recipe


@pytest.fixture
def way(place: Path, monkeypatch: pytest.MonkeyPatch) -> Way:
    """To a server that takes connections and says nothing of itself; only what the way answers is heard."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        way_to(f"http://127.0.0.1:{server.getsockname()[1]}") as made,
    ):
        monkeypatch.setenv("SIDA_PATIENCE", "10")
        yield made  # type: ignore[misc]


def test_one_that_is_back_in_a_moment_is_waited_for(way: Way) -> None:
    way.shut()
    threading.Timer(1.0, lambda: way.open("200 page")).start()
    check(way.endpoint)


@pytest.mark.parametrize(("answer", "why"), [("", "NewConnectionError"), ("502 page", "status 502")])
def test_one_that_stays_away_is_told_in_a_line_soon(
    way: Way, monkeypatch: pytest.MonkeyPatch, answer: str, why: str
) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", "1")
    if answer:
        way.open(answer)
    else:
        way.shut()
    started = time.monotonic()
    with pytest.raises(TrackingOff, match=rf"does not answer \({why}\): not written; .*track"):
        check(way.endpoint)
    assert 1 <= time.monotonic() - started < 6


class Sick(BaseHTTPRequestHandler):
    """A server whose health is fine and that fails at everything else, in its own way."""

    body: bytes | None = b""
    status = 500

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")
        elif self.body is not None:
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"<html>Internal Server Error</html>"),
        (502, b""),
        (200, b"<html>sign in</html>"),
        (200, b"[1, 2]"),
        (200, None),
        (403, b"no"),
    ],
)
def test_a_server_that_fails_in_any_way_is_a_line_without_its_password(
    place: Path,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int,
    body: bytes | None,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("SIDA_PATIENCE", "0")
    handler = type("Bound", (Sick,), {"status": status, "body": body})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cr3tPW@127.0.0.1:{server.server_port}")
        line = track_quietly(Made(store, recipe(name="digits-sick"), (1.0, 1.01, 0.99)).write("run-1"))
        link = mlflow_link("digits", "run-1")
    finally:
        server.shutdown()
        server.server_close()
    assert line.startswith(f"tracking: MLflow at http://127.0.0.1:{server.server_port}: "), line
    assert "completes it" in line and len(line) <= 300 and "\n" not in line
    assert link == f"http://127.0.0.1:{server.server_port}/#/experiments"
    written = capfd.readouterr()
    assert "s3cr3tPW" not in line + written.out + written.err
    assert "Traceback" not in written.out + written.err


@pytest.mark.parametrize(
    ("server", "place", "taken"),
    [
        ("http://me:pw@host:5000", "mlflow-artifacts:/1/abc/artifacts", True),
        ("http://me:pw@host:5000", "mlflow-artifacts://host:5000/1/abc/artifacts", True),
        ("http://host:5000", "http://host:5000/api/2.0/mlflow-artifacts/artifacts/1", True),
        ("https://host", "s3://bucket/1/abc/artifacts", True),
        ("sqlite:////home/me/mlflow.db", "/home/me/artifacts/1", True),
        ("http://host:5000", "file:///home/me/.ssh", False),
        ("http://host:5000", "/home/me/.ssh", False),
        ("http://host:5000", "mlflow-artifacts://other:5000/1", False),
        ("http://host:5000", "http://host:5001/1", False),
        ("https://host", "http://host/1", False),
        ("http://host:5000", "sftp://host/1", False),
        ("http://host:5000", "", False),
    ],
)
def test_files_go_through_the_server_or_to_an_object_store_alone(server: str, place: str, taken: bool) -> None:
    said = r"neither through itself .* nor to an object store"
    with nullcontext() if taken else pytest.raises(TrackingOff, match=said):
        check_artifacts(server, place)


class Endless(BaseHTTPRequestHandler):
    """A server whose answers do not end, each in its own way."""

    way, health = "", False

    def do_GET(self) -> None:
        if self.path == "/health" and not self.health:
            self.send_response(200)
            self.end_headers()
            return
        with suppress(OSError):
            if self.way == "later":
                self.send_response(429)
                self.send_header("Retry-After", "86400")
                self.end_headers()
                return
            self.send_response(200)
            if self.way == "length":
                self.send_header("Content-Length", "9" * 20)
            if self.way == "headers":
                while True:
                    self.wfile.write(b"X")
                    time.sleep(0.1)
            self.end_headers()
            while self.way in ("drip", "flood"):
                self.wfile.write(b" " * (1 << 20 if self.way == "flood" else 1))
                time.sleep(0.0 if self.way == "flood" else 0.1)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("health", [True, False])
@pytest.mark.parametrize("way", ["drip", "flood", "headers", "later", "length"])
def test_a_server_whose_answers_do_not_end_holds_nobody_up(
    place: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, way: str, health: bool
) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", "0")
    monkeypatch.setattr("sida.tracking.server.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("sida.tracking.links.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("sida.tracking.bounded.ANSWER_SECONDS", 3.0)
    monkeypatch.setattr("sida.tracking.bounded.ANSWER_BYTES", 8 << 20)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Endless,), {"way": way, "health": health}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    made = Made(store, recipe(name="digits-endless"), (1.0, 1.01, 0.99)).write("run-1")
    before = time.monotonic()
    try:
        line = track_quietly(made)
        link = mlflow_link("digits", "run-1")
    finally:
        server.shutdown()
        server.server_close()
    assert time.monotonic() - before < 40
    assert link == f"http://127.0.0.1:{server.server_port}/#/experiments"
    assert line.startswith(f"tracking: MLflow at http://127.0.0.1:{server.server_port}"), line
