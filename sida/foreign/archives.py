"""Zips of others (torch's, numpy's): their directory is checked before anything is inflated."""

from __future__ import annotations

import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from sida.foreign.limits import Budget
from sida.printing import one_line

DIRECTORY_BYTES = 8 << 20  # of the list of members: zipfile builds an object for each
_END_BYTES = (64 << 10) + 200  # where a zip's last records are


@contextmanager
def opened_zip(path: Path, budget: Budget, methods: Container[int]) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose members are distinct, plain, compressed by ``methods`` alone, and inside the file.

    Raises ValueError or what zipfile raises. What a member inflates to is for the caller to charge.
    """
    if (listing := _directory_bytes(path)) > DIRECTORY_BYTES:
        raise ValueError(f"the list of its members has {listing:,} bytes")
    with zipfile.ZipFile(path) as archive:
        names: set[str] = set()
        for member in archive.infolist():
            budget.spend()
            name = one_line(member.filename, 80)
            if member.filename in names:
                raise ValueError(f"{name} is in it twice")
            names.add(member.filename)
            if member.flag_bits & 1:
                raise ValueError(f"{name} is encrypted")
            if member.compress_type not in methods:
                raise ValueError(f"{name} is compressed by method {member.compress_type}")
            if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
                raise ValueError(f"{name} is stored, and its two sizes differ")
        if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its members claim more bytes than the file has")
        yield archive


def _directory_bytes(path: Path) -> int:
    """Return the size that a zip gives for its list of members."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        tail = file.read()
    end, large = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    return int.from_bytes(tail[large + 40 : large + 48], "little") if size == 0xFFFFFFFF else size
