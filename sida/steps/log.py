"""Every step's own log, kept in the store when the step ends, however it ends: ``runs/<run>/logs/<step>.txt``.

While the step is at work, everything that its process and children write to stdout and stderr goes on as before, and its last
MiB is kept on the side, with the notes that go to the reader of events. Pods are deleted after a while; this copy is what ``logs``
shows then. Secrets are masked in it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from sida import progress
from sida.errors import NotFound, SidaError
from sida.layout import log_key
from sida.masking import masked
from sida.settings import environment, settings
from sida.stores import open_store
from sida.stores.base import ObjectStore

LOG_BYTES = 1 << 20
DRAIN_SECONDS = 5.0  # how long output of a remaining child may delay the end
_COPIER = Path(__file__).with_name("log_copier.py")
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")  # of the environment, by the copier


def read_log(store: ObjectStore, run: str, step: str) -> str | None:
    """Return the copy; None when there is none."""
    try:
        return store.read(log_key(run, step)).decode(errors="replace")
    except NotFound:
        return None


def end_of_log(path: Path) -> bytes:
    """Return the last MiB of a log, from the beginning of a line on, without secrets."""
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - LOG_BYTES))
        content = log.read()
    if size > LOG_BYTES:
        content = content.partition(b"\n")[2] or content
    return masked(content.decode(errors="replace"), environment()).encode()[-LOG_BYTES:]


@contextlib.contextmanager
def kept(run: str, step: str) -> Iterator[None]:
    """Keep what is written inside the block; ``step`` may be ``step.item``. Outside of a run nothing is kept."""
    if not run:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="log-") as folder:
        log = Path(folder) / "log.txt"
        log.touch()

        def add(text: str) -> None:
            with log.open("ab") as file:
                file.write(text.encode())

        try:
            with _copied(log), progress.heard_by(add):
                yield
        except BaseException as error:
            add(_last_words(step, error))
            raise
        finally:
            _keep(run, step, end_of_log(log))


@contextlib.contextmanager
def _copied(log: Path) -> Iterator[None]:
    """Append the end of what goes to stdout and stderr inside the block to a file."""
    _flush()
    before = [os.dup(1), os.dup(2)]
    pipes = [os.pipe(), os.pipe()]
    sources = [read for read, _ in pipes]
    copier = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_COPIER), *map(str, sources), str(log), str(LOG_BYTES)],
        stdin=subprocess.DEVNULL,
        pass_fds=sources,
        env={name: value for name, value in environment().items() if name in _NEEDED},
        start_new_session=True,  # a signal to our group asks us to stop, not it
    )
    for number, (read, write) in enumerate(pipes, 1):
        os.close(read)
        os.dup2(write, number)
        os.close(write)
    try:
        yield
    finally:
        _flush()
        for number, original in enumerate(before, 1):
            os.dup2(original, number)
            os.close(original)
        try:
            copier.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:  # a child that outlives the step still writes: the copier serves it
            threading.Thread(target=copier.wait, name="copier of a log", daemon=True).start()


def _last_words(step: str, error: BaseException) -> str:
    """Return the error's text, which is otherwise printed only after the block."""
    if isinstance(error, SidaError):
        return f"{step}: error: {error}\n"
    return "" if isinstance(error, SystemExit) else "".join(traceback.format_exception(error))


def _keep(run: str, step: str, content: bytes) -> None:
    """Store the copy; a failure to do so must not fail the step, or hide why it failed."""
    try:
        open_store(settings().store).put(log_key(run, step), content)
    except (SidaError, OSError) as error:
        progress.note(step, f"its log is not kept: {error}")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader has gone: nothing to pass on
            stream.flush()
