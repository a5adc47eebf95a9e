"""Show the steps' events as they arrive, and with --verbose their log lines."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.display import Display
from sida.patience import Told
from sida.printing import plain

POLL_SECONDS = 0.1


class Tail:
    """New lines of a file that grows, from the byte ``start``; it need not exist yet."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path, self._at, self._rest = path, start, b""

    def lines(self) -> list[str]:
        """Return the new complete lines."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return []
        self._at += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


class Following:
    """Drawing of one file's events, and of the lines of the logs that they name."""

    def __init__(self, events: Path, display: Display, log: Path | None = None) -> None:
        self._events, self._display = Tail(events), display
        self._logs = [Tail(log)] if log else []
        self._told = Told()  # launcher and workers meet the same outages

    def draw(self) -> list[dict[str, Any]]:
        """Draw whatever is new; return the events."""
        events = [json.loads(line) for line in self._events.lines()]
        for event in events:
            if event["event"] == "log":
                self._logs.append(Tail(Path(event["path"]), event["start"]))
        if self._display.verbose:
            for line in (line for log in self._logs for line in log.lines()):
                self._display.say(plain(line))
        for event in events:
            if event["event"] != "note" or self._told.is_news(event):
                self._display.show(event)
        return events


@contextmanager
def drawn(display: Display) -> Iterator[None]:
    """Draw what steps in this process report, while the block lasts. If SIDA_EVENTS is set already, it is kept."""
    if os.environ.get("SIDA_EVENTS"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.jsonl"
        following, done = Following(events, display), threading.Event()

        def draw() -> None:
            while not done.wait(POLL_SECONDS):
                following.draw()

        drawing = threading.Thread(target=draw, daemon=True)
        os.environ["SIDA_EVENTS"] = str(events)
        drawing.start()
        try:
            yield
        finally:
            del os.environ["SIDA_EVENTS"]
            done.set()
            drawing.join()
            following.draw()
            display.close()
