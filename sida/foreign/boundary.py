"""The one place where failures of reading a foreign file become a line for its user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sida.disk import CODES
from sida.errors import Refused, SidaError, UserError
from sida.printing import one_line

REASON = 120  # characters for what a library says
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the text begins that stands for a file not yet pulled


@contextmanager
def reading(label: str, path: Path | None = None, problem: str = "damaged, or not what it should be") -> Iterator[None]:
    """Turn whatever reading a foreign file raises into UserError: a short line that names the file by ``label``.

    ``path``: the file, whose first bytes may say that it is another thing altogether; ``problem``: what to call it if they do not.
    Passed on: a full disk, which is not the file's fault, and errors of ours that are not the user's.
    """
    if path is not None and (problem_of_kind := no_file(path)).startswith("is a pipe"):
        raise Refused(f"{label} {problem_of_kind}: give a file")
    try:
        yield
    except Exception as error:  # libraries raise whatever hostile bytes make them raise
        ours = isinstance(error, UserError)
        if (isinstance(error, SidaError) and not ours) or (isinstance(error, OSError) and error.errno in CODES):
            raise
        if path is not None and (instead := what_it_is_instead(path)):
            raise Refused(f"{label} is {instead}") from error
        if ours:
            raise
        text = f"{label} is {problem} ({reason(error)}): fetch it again"
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a place that cannot be
            text = f"{label}: cannot be read: {error.strerror}: check the path"
        raise Refused(text) from error


def no_file(path: Path) -> str:
    """Return what there is at a path in place of a file, in words; empty for a file."""
    if path.is_file():
        return ""
    if path.is_dir():
        return "is a folder, not a file"
    return "is a pipe, socket or device, not a file" if path.exists() else "no such file"


def unreadable(label: str, path: Path, error: OSError) -> UserError:
    """Return the error for a path that cannot be opened as the file that it should be."""
    kind = no_file(path)
    if kind.startswith("is"):
        return UserError(f"{label} {kind}: give a file")
    return UserError(f"{label}: {kind or f'cannot be read ({error.strerror})'}: check the path")


def reason(error: BaseException) -> str:
    """Return what an error of a library says, in a few words of one line."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__
    return one_line(text, REASON)


def what_it_is_instead(path: Path) -> str:
    """Return what a file's first bytes say it is in place of data, and what to do; empty for anything else."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return ""
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or fetch the file"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the file: check the address, and fetch it again"
    return ""
