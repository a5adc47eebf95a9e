"""A full disk, in whatever words a library puts it: one line for the boundaries of commands, steps and workers."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sida.errors import UserError

LEAST_BYTES = 1 << 20  # what a step needs to begin
CODES = (errno.ENOSPC, errno.EDQUOT)  # of an OSError on a disk, or a share of one, that is full
# The system's own words, which safetensors passes on; then numpy's and torch's, who do not say why they could not write.
_WORDS = [re.escape(os.strerror(code)) for code in CODES]
_FULL = re.compile("|".join([*_WORDS, r"\d+ requested and \d+ written", "PytorchStreamWriter failed writing"]))


def full_disk(error: BaseException, place: str = "") -> UserError | None:
    """Return the error for the user if a full disk is why ``error`` was raised; None if not.

    ``place``: what was being written, where the error names no file; else temporary files were.
    """
    for each in _chain(error):
        if (isinstance(each, OSError) and each.errno in CODES) or _FULL.search(str(each)):
            where = getattr(each, "filename", None) or place or tempfile.gettempdir()
            return UserError(f"disk full while writing {where}: free space or set TMPDIR or SIDA_RUNS")
    return None


def unsaid(folder: Path) -> UserError | None:
    """Return the error for a failure of which nobody could write why: the disk of ``folder`` is full; None if it is not."""
    if shutil.disk_usage(folder).free >= LEAST_BYTES:
        return None
    return UserError(f"disk full while writing in {folder}: free space or set SIDA_RUNS")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
