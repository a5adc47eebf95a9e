"""Why a job's workers failed: ``error.json`` beside its spec, by the worker that failed first; what a worker told the launcher on
its own machine, which hears it also when disk and store are full or away; else how it ended, and what is left in the log.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sida import patience
from sida.disk import full_disk
from sida.errors import SidaError, StoreError, Unavailable, UserError
from sida.masking import masked
from sida.printing import one_line
from sida.process.group import Ended
from sida.settings import environment
from sida.stores import ObjectStore

NAME = "error.json"
TAIL_BYTES = 256 * 1024
TOLD = "SIDA_TOLD"  # in a worker's environment: the descriptor that its launcher reads
KNOWN = (UserError.exit_code, Unavailable.exit_code)
HINTS: dict[int, str] = {signal.SIGKILL: ": is the memory enough?", signal.SIGBUS: ": is /dev/shm large enough?"}
# torchrun's account of the worker that failed first; the beginning of its lines and of torch's own; what torch puts before the
# lines of a rank's traceback
_FAILED = re.compile(r"^.*failed \(exitcode: (-?\d+)\)", re.MULTILINE)
_TORCH = re.compile(r"\[?[WEIF]\d{4} \d\d:\d\d:\d\d")
_RANK = re.compile(r"(?:\[rank(\d+)\]: ?)?")


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
        if not isinstance(error, SidaError):
            error = full_disk(error) or error
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


def forget_end(store: ObjectStore, job: str, restart: int) -> None:
    """Delete what an earlier start of the same number left: it was asked to stop, for a queue that wanted its place."""
    left = read_error(store, job)
    if left is not None and left.restart == restart:
        with patience.impatient(), suppress(StoreError):
            store.delete(error_key(job))


def failure(message: str, status: int | None) -> SidaError:
    """The error for workers of which the first ended with ``status``: a user's mistake, something away, or any other."""
    if status == Unavailable.exit_code:
        return Unavailable(message, "what the workers need", "it stayed away")
    return UserError(message) if status == UserError.exit_code else SidaError(message)


def tell(error: WorkerError) -> None:
    """Tell the launcher, if it is on this machine; that needs neither store nor disk, either of which may be what failed."""
    if descriptor := environment().get(TOLD):
        with suppress(OSError):  # it ends too
            os.write(int(descriptor), f"{error.model_dump_json()}\n".encode())


def first_told(descriptor: int) -> WorkerError | None:
    """Return what was told first, by the other end of what ``tell`` writes to; None where nothing was."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError, ValidationError):
        return WorkerError.model_validate_json(os.read(descriptor, TAIL_BYTES).split(b"\n")[0])
    return None


def explain(
    log_path: Path, begin: int, errors: Iterable[WorkerError | None], failed: Sequence[Ended] = ()
) -> tuple[str, int | None]:
    """Return one line that says why, and the exit status of the worker that failed first; None where nothing says it.

    ``begin`` is where this run's part of the log starts, in bytes. ``errors`` are what workers said of their failure, ``failed``
    the workers of this machine that failed, either in their order; without the latter torchrun's account in the log counts.
    What a user can mend is a cause. Anything else may be the end of a worker that has lost another one.
    """
    said = [error for error in errors if error is not None]
    if causes := [error for error in said if error.exit_code in KNOWN]:
        return causes[0].message, causes[0].exit_code
    with log_path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(begin, size - TAIL_BYTES))
        text = log.read().decode(errors="replace")
    account = [*_FAILED.finditer(text)][-1:]
    first = next((one for one in failed if one.status in KNOWN), failed[0] if failed else None)
    code = first.status if first else int(account[0][1]) if account else None
    if code is not None and code < 0:
        return f"a worker was killed by {_signal(-code)}{HINTS.get(-code, '')}", code
    if said:
        return said[0].message, said[0].exit_code
    words = _last_words(text[: account[0].start()] if account else text, first)
    return words or f"a worker ended with status {1 if code is None else code} and said nothing", code


def _last_words(text: str, first: Ended | None) -> str:
    """Return the last line that is neither torchrun's nor an event, of the worker that failed first if lines are marked as its."""
    lines = (raw.split("\r")[-1].rstrip() for raw in text.splitlines())
    marked = [(match[1], line[match.end() :]) for line in lines if (match := _RANK.match(line))]
    words = [
        (rank, line)
        for rank, line in marked
        if line and not line.startswith((" ", '{"event"')) and not _TORCH.match(line)
    ]
    own = [(rank, line) for rank, line in words if first and rank == str(first.number)]
    if first and first.status in KNOWN:  # its line is ours, the marked ones are tracebacks
        own = [(rank, line) for rank, line in words if rank is None]
    return one_line((own or words or [(None, "")])[-1][1])


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
