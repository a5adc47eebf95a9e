"""Why a job's workers failed: ``error.json`` beside its spec, by the worker that failed first; else what is left in the log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sida import patience
from sida.errors import SidaError, StoreError, Unavailable, UserError
from sida.masking import masked
from sida.printing import one_line
from sida.settings import environment
from sida.stores import ObjectStore

NAME = "error.json"
TAIL_BYTES = 256 * 1024
# torchrun's account of the worker that failed first, and the beginning of all its lines
_FAILED = re.compile(r"^.*failed \(exitcode: (-?\d+)\)", re.MULTILINE)
_TORCHRUN = re.compile(r"[WEIF]\d{4} \d\d:\d\d:\d\d")


class WorkerError(BaseModel):
    """One error, of one start of the job."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    kind: str  # the exception's class
    message: str
    exit_code: int
    restart: int = 0  # of the pods

    @classmethod
    def of(cls, error: Exception, restart: int) -> WorkerError:
        """Word an exception in a line; what is not ours is named."""
        kind, words = type(error).__name__, str(error)
        if not isinstance(error, SidaError):
            words = f"{kind}: {words}".removesuffix(": ")
        code = getattr(error, "exit_code", SidaError.exit_code)
        return cls(kind=kind, message=one_line(masked(words, environment())), exit_code=code, restart=restart)


def error_key(job: str) -> str:
    """Return its key, beside that of the job's spec."""
    return f"{job.rpartition('/')[0]}/{NAME}"


def read_error(store: ObjectStore, job: str) -> WorkerError | None:
    """Return what the workers of a job left, by its spec's key; None where there is nothing, or the store is away."""
    try:
        with patience.impatient():
            return WorkerError.model_validate_json(store.read(error_key(job)))
    except (StoreError, ValidationError):
        return None


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
    return one_line(words[-1]) if words else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
