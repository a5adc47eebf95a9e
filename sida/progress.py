"""Events of a running step for its user: one JSON object a line, appended to the file that SIDA_EVENTS names ("-": stderr).

``sida`` draws these events. Without that file (a pod, a step run alone) they become plain lines on stderr: notes and
errors at once, progress at most once a minute. Any number of processes may append: an event is a single write to a file opened for
appending, so lines never mix.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sida.disk import writing
from sida.errors import UserError
from sida.printing import one_line
from sida.settings import settings

EVENT_SECONDS = 0.25  # between the progress events of a step
LOGGED_SECONDS = 10.0  # between those that go to a log ("-")
LOG = Path("-")
LINE_SECONDS = 60.0  # between its lines on stderr
NOTE = 1000  # characters at most
RATE_SECONDS = 15.0  # the window that the rate is measured over

_at_work = ""  # the step of this process
_hear: Callable[[str], None] | None = None
_watch: Callable[[dict[str, Any]], None] | None = None


def emit(event: str, step: str, **fields: Any) -> None:
    """Append one event, or print it on stderr when nobody reads events."""
    if _watch is not None and event == "progress":
        _watch(fields)
    path = settings().events
    if path is None:
        if line := _in_words(event, fields):
            print(f"{step}: {line}" if step else line, file=sys.stderr, flush=True)
        return
    if _hear is not None and event != "progress" and (line := _in_words(event, fields)):
        _hear(f"{step}: {line}\n")
    record = {"event": event, "step": step, **fields}
    _append(path, json.dumps(record, default=str).encode() + b"\n")


@contextmanager
def heard_by(hear: Callable[[str], None]) -> Iterator[None]:
    """Give ``hear`` the lines that become events rather than stderr, while the block lasts; progress excepted."""
    global _hear
    before, _hear = _hear, hear
    try:
        yield
    finally:
        _hear = before


@contextmanager
def watched_by(watch: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Give ``watch`` the fields of each progress event while the block lasts."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def work_on(step: str) -> None:
    """Name ``step`` as this process's work from now on, for parts that do not know what they are used for, such as stores."""
    global _at_work
    _at_work = step


def at_work() -> str:
    """Return the step that this process works on; empty outside of one."""
    return _at_work


def step_started(step: str) -> None:
    """Report that a step begins."""
    work_on(step)
    emit("step_started", step, time=time.time())


def step_finished(step: str, state: str, seconds: float, manifest: str) -> None:
    """Report that a step is done; ``state`` is ``ran`` or ``reused``, ``manifest`` the address of its result."""
    emit("step_finished", step, state=state, seconds=round(seconds, 3), manifest=manifest, time=time.time())


def note(step: str, text: str, **fields: str) -> None:
    """Report one line that the user should see; ``fields`` are for programs that hear it."""
    emit("note", step, text=one_line(text, NOTE), **fields)


def log(step: str, path: Path) -> None:
    """Report that a step's workers will write to this log from here on."""
    emit("log", step, path=str(path), start=path.stat().st_size if path.is_file() else 0)


def error(step: str, message: str, exit_code: int) -> None:
    """Report the one line that ends the run; 2 for what the user can fix, 1 otherwise. Never fails."""
    try:
        emit("error", step, message=one_line(message), exit_code=exit_code)
    except UserError:  # the events themselves may be what cannot be written
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)


class Progress:
    """Progress of a long step. Cheap to call every iteration: all but about four updates a second are dropped.

    ``total`` 0: nobody knows how much there is.
    """

    def __init__(self, step: str, total: int, unit: str) -> None:
        self.step, self.total, self.unit = step, total, unit
        self._interval = {None: LINE_SECONDS, LOG: LOGGED_SECONDS}.get(settings().events, EVENT_SECONDS)
        self._sent = -math.inf
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, done: int, **numbers: float | None) -> None:
        """Report that ``done`` of ``total`` units are finished; ``numbers`` are shown beside it. The last update is always sent."""
        now = time.monotonic()
        if now - self._sent < self._interval and (done < self.total or not self.total):
            return
        self._sent = now
        # JSON has no other numbers.
        finite = {name: float(x) for name, x in numbers.items() if x is not None and math.isfinite(x)}
        emit(
            "progress",
            self.step,
            done=int(done),
            total=int(self.total),
            unit=self.unit,
            rate=self._rate(now, done),
            numbers=finite,
            time=time.time(),
        )

    def _rate(self, now: float, done: int) -> float | None:
        """Return units per second over the window; None before there is something to measure."""
        if self._seen and done < self._seen[-1][1]:  # started again further back
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()
        first, before = self._seen[0]
        return round((done - before) / (now - first), 2) if now > first and done > before else None


def _append(path: Path, line: bytes) -> None:
    if path == LOG:
        os.write(2, line)
        return
    with writing(path, "SIDA_EVENTS"), path.open("ab", buffering=0) as file:
        file.write(line)


def _in_words(event: str, fields: dict[str, Any]) -> str:
    match event:
        case "progress":
            return progress_in_words(fields)
        case "note":
            return str(fields["text"])
        case "error":
            return f"error: {fields['message']}"
        case "step_finished":
            return f"{fields['state']} in {fields['seconds']:.1f} s: {fields['manifest']}"
    return ""


def progress_in_words(fields: dict[str, Any]) -> str:
    """Return ``1,024 of 50,000 images (2%), 310 images/s, 2:38 left, loss 0.41``."""
    done, total, unit, rate = fields["done"], fields["total"], fields["unit"], fields.get("rate")
    parts = [f"{done:,} of {total:,} {unit} ({100 * done / total:.0f}%)" if total else f"{done:,} {unit}"]
    if rate:
        parts.append(f"{rate:,.0f} {unit}/s")
        if done < total:
            parts.append(f"{duration((total - done) / rate)} left")
    parts += [f"{name} {value:.4g}" for name, value in fields["numbers"].items()]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return minutes and seconds, with hours if there are any.

    >>> duration(7), duration(750), duration(3723)
    ('0:07', '12:30', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
