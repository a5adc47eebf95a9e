"""Progress for a TrainJob's own status (``status.trainerStatus``), where Kubeflow Trainer takes it from its pods.

Trainer 2.2 and newer, with its feature gate ``TrainJobStatus``, gives each pod an address, a certificate, and a token that is good
for this one TrainJob. Nothing depends on a report: the launching step writes annotations besides.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import URLError

from sida import progress
from sida.masking import hide
from sida.settings import environment

ADDRESS, CERTIFICATE, TOKEN = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
PAUSE_SECONDS = 30.0  # between two reports
ANSWER_SECONDS = 10.0
MOST_METRICS = 30
TEXT = 64  # characters of a metric's name or value, at most


@contextmanager
def reported(step: str, pause: float = PAUSE_SECONDS) -> Iterator[None]:
    """Report this process's progress while the block lasts, where the cluster takes it."""
    here = environment()
    if not all(here.get(name) for name in (ADDRESS, CERTIFICATE, TOKEN)):
        yield
        return
    reporter = _Reporter(step, here[ADDRESS], Path(here[CERTIFICATE]), Path(here[TOKEN]), pause)
    with progress.watched_by(reporter.hear):
        try:
            yield
        finally:
            reporter.end()


def status_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return a progress event as Trainer's ``trainerStatus``."""
    done, total, rate = int(event["done"]), int(event["total"]), event.get("rate")
    numbers = {f"{event['unit']}_seen": done, f"{event['unit']}_per_second": rate} | dict(event["numbers"])
    metrics = [
        {"name": name[:TEXT], "value": f"{value:.6g}" if isinstance(value, float) else str(value)}
        for name, value in numbers.items()
        if value is not None
    ]
    status: dict[str, Any] = {
        "lastUpdatedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "progressPercentage": min(100 * done // max(total, 1), 100),
        "metrics": metrics[:MOST_METRICS],
    }
    if rate:
        status["estimatedRemainingSeconds"] = min(round(max(total - done, 0) / rate), 2**31 - 1)
    return status


class _Reporter:
    """Sender of the newest progress event, in a thread of its own."""

    def __init__(self, step: str, address: str, certificate: Path, token: Path, pause: float) -> None:
        self._step, self._address, self._certificate, self._token = step, address, certificate, token
        self._pause = pause
        self._newest: dict[str, Any] | None = None
        self._complained = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trainer status", daemon=True)
        self._thread.start()

    def hear(self, event: dict[str, Any]) -> None:
        self._newest = event

    def end(self) -> None:
        """Send what has not been sent, once."""
        self._ended.set()
        self._thread.join(2 * ANSWER_SECONDS)

    def _work(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(self._pause)
            event, self._newest = self._newest, None
            if event is None:
                continue
            try:
                self._send(status_of(event))
            except (URLError, OSError, ValueError) as error:
                if not self._complained:
                    self._complained = True
                    progress.note(self._step, f"the TrainJob's status does not show the progress: {_in_a_line(error)}")

    def _send(self, status: dict[str, Any]) -> None:
        if not self._address.startswith("https://"):
            raise ValueError(f"{self._address!r} is no https address")
        token = self._token.read_text(encoding="utf-8").strip()  # it is renewed
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        hide(headers)
        content = json.dumps({"trainerStatus": status}).encode()
        asked = request.Request(self._address, data=content, headers=headers, method="POST")  # noqa: S310 (https)
        secure = request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self._certificate)))
        opener = request.build_opener(request.ProxyHandler({}), secure)
        with opener.open(asked, timeout=ANSWER_SECONDS) as answer:
            answer.read()


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
