"""What workers and torchrun leave in a log: why they failed, where no worker could publish it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sida.errors import SidaError, Unavailable, UserError
from sida.launch.worker_error import LONGEST, WorkerError

TAIL_BYTES = 256 * 1024
# torchrun's account of the worker that failed first, and the beginning of all its lines
_FAILED = re.compile(r"^.*failed \(exitcode: (-?\d+)\)", re.MULTILINE)
_TORCHRUN = re.compile(r"[WEIF]\d{4} \d\d:\d\d:\d\d")


def failure(message: str, status: int | None) -> SidaError:
    """The error for workers of which the first ended with ``status``: a user's mistake, something away, or any other."""
    if status == Unavailable.exit_code:
        return Unavailable(message, "what the workers need", "it stayed away")
    return UserError(message) if status == UserError.exit_code else SidaError(message)


def explain(log_path: Path, begin: int, status: int, error: WorkerError | None) -> tuple[str, int | None]:
    """Return one line that says why, and the exit status of the worker that failed first; None where nothing says it.

    ``begin`` is where this run's part of the log starts, in bytes; ``status`` is torchrun's, ``error`` what a worker published.
    """
    with log_path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(begin, size - TAIL_BYTES))
        text = log.read().decode(errors="replace")
    account = [*_FAILED.finditer(text)][-1:]
    code = int(account[0][1]) if account else None
    if status < 0:
        return f"torchrun was killed by {_signal(-status)}", None
    if code is not None and code < 0:
        hint = ": is the memory enough?" if -code == signal.SIGKILL else ""
        return f"a worker was killed by {_signal(-code)}{hint}", code
    if error is not None:
        return error.message, error.exit_code
    words = _last_words(text[: account[0].start()] if account else text)
    return words or f"torchrun ended with status {status} and said nothing", code


def _last_words(text: str) -> str:
    """Return the last line that is neither torchrun's nor an event."""
    lines = (raw.split("\r")[-1].rstrip() for raw in text.splitlines())
    words = [line for line in lines if line and not line.startswith((" ", '{"event"')) and not _TORCHRUN.match(line)]
    return words[-1][:LONGEST] if words else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
