"""A webhook that is told, one that fails, and an address that stays a secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace
from typing import Any

import pytest

from sida import ending, records
from sida.manifests import Regression, RunResult
from sida.settings import settings
from sida.stores import open_store
from sida.webhook import ATTEMPTS, tell


class Listener:
    """What came in, and what is answered."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.answers = [200]
        self.address = ""


@pytest.fixture
def listener() -> Iterator[Listener]:
    memory = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            memory.heard.append((self.path, self.headers["Content-Type"], json.loads(content)))
            status = memory.answers[0] if len(memory.answers) == 1 else memory.answers.pop(0)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    memory.address = f"http://127.0.0.1:{server.server_port}/hooks/s3cret"
    yield memory
    server.shutdown()
    server.server_close()
    thread.join()


def test_news_are_posted_once_as_json(listener: Listener) -> None:
    assert tell(listener.address, {"text": "worse"}) == "told (status 200)"
    assert listener.heard == [("/hooks/s3cret", "application/json", {"text": "worse"})]


def test_what_may_pass_is_tried_again(listener: Listener) -> None:
    listener.answers = [503, 429, 204]
    assert tell(listener.address, {}, pause=0.0) == "told (status 204)"
    assert len(listener.heard) == 3


def test_the_attempts_are_bounded(listener: Listener) -> None:
    listener.answers = [500]
    assert tell(listener.address, {}, pause=0.0) == f"failed: status 500 after {ATTEMPTS} attempts"
    assert len(listener.heard) == ATTEMPTS


@pytest.mark.parametrize("status", [302, 401, 404])
def test_a_refusal_or_a_redirect_is_not_tried_again_or_followed(listener: Listener, status: int) -> None:
    listener.answers = [status]
    assert tell(listener.address, {}, pause=0.0).startswith(f"failed: status {status}")
    assert len(listener.heard) == 1


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/s3cret", "s3cret", "file:///s3cret", "http://[s3cret", "http:///s3cret"]
)
def test_an_address_that_does_not_work_is_reported_and_never_shown(address: str) -> None:
    said = tell(address, {}, pause=0.0)
    assert said.startswith("failed: ") and "s3cret" not in said and "127.0.0.1" not in said


# -- the exit handler


def regression(worse_by: float) -> Regression:
    fields = {
        "before": 1.0,
        "before_half_width": 0.01,
        "now": 1.0 + worse_by,
        "now_half_width": 0.01,
        "half_width": 0.02,
    }
    return Regression(metric="fd_digits", worse_by=worse_by, regressed=worse_by > 0.02, previous="a" * 64, **fields)


def ended(place: Path, monkeypatch: pytest.MonkeyPatch, found: Regression | None, state: str = "ran") -> records.RunEnd:
    """A run whose comparison found this, after its exit handler."""
    from pipeline.exit_handler import record_end

    run = "0f3c-run"
    result = SimpleNamespace(result=RunResult.model_construct(regression=found))
    monkeypatch.setattr(ending, "made_by", lambda store, call: result)
    call = records.begin(run, "compare", 2, {"recipe": "digits"})
    records.finished(call, "file:///nowhere/1.json", "a" * 64, reused=state == "reused")
    status = SimpleNamespace(state="SUCCEEDED", error_code=0, error_message="")
    record_end.python_func(recipe="digits", run_id=run, status=status)
    end = records.end_of(open_store(settings().store), run)
    assert end is not None
    return end


def test_a_regression_marks_the_run_and_is_told_to_the_webhook(
    place: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDA_WEBHOOK", listener.address)
    end = ended(place, monkeypatch, regression(0.5))
    assert (end.regressed, end.webhook) == (True, "told (status 200)")
    ((_, _, news),) = listener.heard
    assert news["event"] == "regression" and news["run"] == "0f3c-run"
    assert news["score"]["before"] == 1.0 and news["score"]["now"] == 1.5
    assert "worse than the last score of this recipe by 0.500" in news["text"]
    assert "REGRESSED" in capsys.readouterr().out
    assert "s3cret" not in repr(settings())
    assert all(b"s3cret" not in path.read_bytes() for path in (place / "store").rglob("*") if path.is_file())


@pytest.mark.parametrize(("worse_by", "state"), [(0.01, "ran"), (-0.5, "ran"), (0.5, "reused"), (None, "ran")])
def test_without_a_new_regression_nobody_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener, worse_by: float | None, state: str
) -> None:
    monkeypatch.setenv("SIDA_WEBHOOK", listener.address)
    end = ended(place, monkeypatch, None if worse_by is None else regression(worse_by), state)
    assert (end.regressed, end.webhook, listener.heard) == (False, "", [])


def test_a_webhook_that_fails_does_not_fail_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    listener.answers = [404]
    monkeypatch.setenv("SIDA_WEBHOOK", listener.address)
    end = ended(place, monkeypatch, regression(0.5))
    assert end.state == "SUCCEEDED" and end.webhook.startswith("failed: status 404")


def test_without_a_webhook_the_run_is_marked_all_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = ended(place, monkeypatch, regression(0.5))
    assert (end.regressed, end.webhook) == (True, "")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "told (status 200)"),  # and a body without end
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "told (status 200)"),
        (b"HTTP/1.1 200 OK\r\nX: ", f"failed: no answer (TimeoutError) after {ATTEMPTS} attempts"),  # or a header
    ],
)
def test_an_answer_without_end_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, answer: bytes, outcome: str) -> None:
    monkeypatch.setattr("sida.webhook.TIMEOUT", (0.2, 0.8))

    over = threading.Event()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.wfile.write(answer)
                while not over.wait(0.05):
                    self.wfile.write(b".")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert tell(f"http://127.0.0.1:{server.server_address[1]}/x", {"text": "worse"}, pause=0.01) == outcome
        over.set()
        server.shutdown()
