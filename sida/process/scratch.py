"""Temporary folders that a kill does not leave behind for long: the next run that needs one, and ``gc``, remove them.

sida-scratch-<random>         a step's folder, in the system's place for temporary files (TMPDIR)
runs/<run>/tmp                that place for the steps of a local run
<folder>.lock                 locked by its process for its life; made before the folder, removed after it
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sida.settings import settings

PREFIX = "sida-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder for the block; remove those of killed processes first. Raises OSError."""
    remove_abandoned()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(8)}"
    held = hold(folder)
    try:
        yield folder
    finally:
        let_go(folder, held)


def hold(folder: Path) -> int:
    """Create a folder that counts as abandoned once this process, and every heir of the descriptor, is gone. Raises OSError."""
    descriptor = _locked(_lock_of(folder))
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        let_go(folder, descriptor)
        raise
    return descriptor


def let_go(folder: Path, descriptor: int) -> None:
    """Remove a folder that is held."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)
    os.close(descriptor)


def remove_abandoned(*, dry_run: bool = False) -> list[Path]:
    """Remove this user's temporary folders whose processes are gone, here and in killed local runs; return them."""
    runs = settings().runs
    places = [Path(tempfile.gettempdir()), *runs.glob("*/tmp")]
    removed = []
    for lock in (*runs.glob("*/tmp.lock"), *(path for place in places for path in place.glob(f"{PREFIX}*.lock"))):
        try:
            if lock.lstat().st_uid != os.geteuid():
                continue
            descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or not one of ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # at work
        else:
            folder = lock.with_suffix("")
            if folder.exists():
                removed.append(folder)
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    return removed


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _locked(path: Path) -> int:
    """Return a descriptor that holds the lock, which ends with this process and its forks.

    Removal of abandoned folders may take the file between its creation and its locking: then it is created again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)
