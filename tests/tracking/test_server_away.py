"""An MLflow that is away is waited for a little, and never stops a run."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from sida.tracking.server import TrackingOff, check
from tests.stores.outage import Way, way_to


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
