"""Disks that take no writing: a full one, in whatever words a library puts it, and places of our own output that refuse it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sida.errors import UserError

LEAST_BYTES = 1 << 20  # what a step needs to begin
CODES = (errno.ENOSPC, errno.EDQUOT)  # of an OSError on a disk, or a share of one, that is full
# The system's own words, which safetensors passes on; then numpy's and torch's, who do not say why they could not write.
_WORDS = [re.escape(os.strerror(code)) for code in CODES]
_FULL = re.compile("|".join([*_WORDS, r"\d+ requested and \d+ written", "PytorchStreamWriter failed writing"]))


def full_disk(error: BaseException, place: str = "") -> UserError | None:
    """Return the error for the user if a full disk, or a limit of files, is why ``error`` was raised; None if not.

    ``place``: what was being written, where the error names no file; else temporary files were.
    """
    for each in _chain(error):
        where = getattr(each, "filename", None) or place or tempfile.gettempdir()
        if (isinstance(each, OSError) and each.errno in CODES) or _FULL.search(str(each)):
            return UserError(f"disk full while writing {where}: free space or set TMPDIR or SIDA_RUNS")
        if (isinstance(each, OSError) and each.errno == errno.EFBIG) or os.strerror(errno.EFBIG) in str(each):
            return UserError(f"file limit reached while writing {where}: raise it (ulimit -f)")
    return None


def unsaid(folder: Path) -> UserError | None:
    """Return the error for a failure of which nobody could write why: the disk of ``folder`` is full; None if it is not."""
    if shutil.disk_usage(folder).free >= LEAST_BYTES:
        return None
    return UserError(f"disk full while writing in {folder}: free space or set SIDA_RUNS")


def check_folder(path: Path, what: str) -> None:
    """Raise UserError, which begins with ``what``, unless a file can be made in the folder, or where it would be made."""
    place = next((each for each in (path.absolute(), *path.absolute().parents) if each.exists()), Path("/"))
    if not place.is_dir():
        blocking = "" if place == path.absolute() else f"{place} "
        raise UserError(f"{what} {path}: {blocking}is not a folder: name another one")
    with writing(path, what), tempfile.TemporaryFile(dir=place):
        pass


def check_file(path: Path, what: str) -> None:
    """Raise UserError unless a file can be written: one that is there, or a new one in a folder that is."""
    if path.is_dir():
        raise UserError(f"{what} {path}: is a folder: name a file in it")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{what} {path}: there is no folder {path.parent}: make it first")
    if not path.exists():
        with writing(path, what), tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    elif not os.access(path, os.W_OK):
        raise UserError(f"{what} {path}: may not be written: change its permissions, or name another file")


@contextmanager
def writing(path: Path, what: str) -> Iterator[None]:
    """Turn a failure of the disk while ``path`` is written into a line that begins with ``what`` named it."""
    try:
        yield
    except OSError as error:
        if error.errno in CODES:
            raise UserError(f"{what} {path}: disk full while writing: free space or name another place") from error
        if error.errno == errno.EFBIG:
            raise UserError(f"{what} {path}: file limit reached while writing: raise it (ulimit -f)") from error
        raise UserError(f"{what} {path}: cannot be written ({error.strerror}): name another place") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file beside ``path`` to be written, which takes its place once the block has ended. Raises OSError.

    What was there stays until then; a link is replaced, not followed. A device or pipe, and a link that stands for an open file as
    /dev/stdout does, can only be written as they are.
    """
    for_open_file = path.is_symlink() and path.absolute().parent.resolve().parts[1:2] in (("dev",), ("proc",))
    if for_open_file or (path.exists() and not path.is_file() and not path.is_dir()):
        yield path
        return
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    draft.open("xb").close()
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def writing_whole(path: Path, what: str) -> Iterator[Path]:
    """Give what a verb writes as ``path``: a draft as ``replacing`` gives it, with the errors of ``writing``."""
    with writing(path, what), replacing(path) as draft:
        yield draft


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
