"""Why workers failed, from their log: a worker's own words, not torchrun's account of them."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sida.errors import SidaError, Unavailable, UserError
from sida.masking import masked
from sida.settings import environment

KEPT_BYTES = 1 << 20  # of a log that is kept in the store
TAIL_BYTES = 256 * 1024
LINE_CHARACTERS = 400
_LOGGED = re.compile(r"^[WEIF]\d{4} \d\d:\d\d:\d\d")
_TORCHRUN = re.compile(
    r"Sending process \d+ closing signal|failed \(exitcode: |Received .* death signal|ChildFailedError"
)
_EXIT = re.compile(r"exitcode: (-?\d+)\)|exitcode\s*: (-?\d+) \(pid")
_WARNING = re.compile(r"^\S*:\d+: \w*Warning: |^\[W\d+")
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Corrupt|Fenced)|error)\b:? ?")
# What the other ranks say once one of them has gone.
_AFTERMATH = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|broken pipe|recvbytes|TCPStore|no sign of life", re.IGNORECASE
)


def failure(message: str, status: int | None) -> SidaError:
    """The error for workers of which the first ended with ``status``: a user's mistake, something away, or any other."""
    if status == Unavailable.exit_code:
        return Unavailable(message, "what the workers need", "it stayed away")
    return UserError(message) if status == UserError.exit_code else SidaError(message)


def explain(log_path: Path, begin: int, status: int) -> tuple[str, int | None]:
    """One line that says why, and the exit status of the worker that failed first; None where the log does not say it.

    ``begin`` is where this run's part of the log starts, in bytes; ``status`` is torchrun's.
    """
    with log_path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(begin, size - TAIL_BYTES))
        text = log.read().decode(errors="replace")
    found = _EXIT.search(text)
    code = int(found.group(1) or found.group(2)) if found else None
    line = _last_words(text)
    if status < 0:
        return f"torchrun was killed by {_signal(-status)}", None
    if code is not None and code < 0:
        hint = ": is the memory enough?" if -code == signal.SIGKILL else ""
        return f"a worker was killed by {_signal(-code)}{hint}", code
    return line or f"torchrun ended with status {status} and said nothing", code


def end_of_log(path: Path) -> bytes:
    """The last MiB of a log, from the beginning of a line on, without secrets: what is kept in the store."""
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - KEPT_BYTES))
        content = log.read()
    if size > KEPT_BYTES:
        content = content.partition(b"\n")[2] or content
    return masked(content.decode(errors="replace"), environment()).encode()[-KEPT_BYTES:]


def _last_words(text: str) -> str:
    """The line of the worker that failed first, as far as a log of all workers tells."""
    lines: list[str] = []
    for raw in text.splitlines():
        line = raw.split("\r")[-1].rstrip()
        if _TORCHRUN.search(line):
            break  # the rest is torchrun's account of it
        if _LOGGED.match(line):
            continue
        if line.strip() and not line.startswith(("  ", "***", "====", "----")) and not _WARNING.search(line):
            lines.append(line)
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    for candidates in (
        [line for line in exceptions if not _AFTERMATH.search(line)][-1:],
        lines[-1:],
        exceptions,
    ):
        if candidates:
            return candidates[0][:LINE_CHARACTERS]
    return ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
