"""The end of a log, which is kept in the store."""

from __future__ import annotations

from pathlib import Path

from sida.masking import masked
from sida.settings import environment

KEPT_BYTES = 1 << 20


def end_of_log(path: Path) -> bytes:
    """Return the last MiB of a log, from the beginning of a line on, without secrets."""
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - KEPT_BYTES))
        content = log.read()
    if size > KEPT_BYTES:
        content = content.partition(b"\n")[2] or content
    return masked(content.decode(errors="replace"), environment()).encode()[-KEPT_BYTES:]
