"""The entries of a tar, refused as a whole where it is damaged or hostile; gzip is unpacked first, to its last byte."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sida.data.entries import Entry, check_size, checked_name
from sida.errors import UserError

MAX_UNPACKED_RATIO = 20  # of a tar.gz of images, beyond a fixed allowance
_ALLOWANCE = 64 * 2**20
_BLOCK = 2**20


def unpacked(path: Path, folder: Path) -> Path:
    """Return the tar itself: ``path``, or its gunzipped copy in ``folder``, read to the end so that gzip's CRC is checked.

    Raises UserError when it is damaged or inflates like a bomb; OSError when the disk is full.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return path
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    limit = _ALLOWANCE + MAX_UNPACKED_RATIO * path.stat().st_size
    plain = folder / f"{path.name}.tar"
    size = 0
    try:
        with gzip.open(path) as packed, plain.open("wb") as file:
            while block := packed.read(_BLOCK):
                size += len(block)
                if size > limit:
                    raise UserError(f"{path}: inflates to more than {limit:,} bytes: refused as a bomb")
                file.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error}): fetch it again") from error
    return plain


class _Window(io.RawIOBase):
    """Part of a file as a file: a tar inside a tar."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def tar_entries(path: Path, inside: Entry | None = None) -> Iterator[Entry]:
    """Return all files of a tar, or of the tar that ``inside`` is, in its order.

    Raises UserError naming the archive: damaged headers and cuts (which Python's tarfile passes over), links, devices, names
    that lead out of it, the same name twice.
    """
    where = f"{path} ({inside.name})" if inside else str(path)
    base, size = (inside.offset, inside.size) if inside else (0, path.stat().st_size)
    names: set[str] = set()
    with path.open("rb") as file:
        window = io.BufferedReader(_Window(file, base, size), 2**16)  # type: ignore[type-var]
        try:
            with tarfile.open(fileobj=window, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                    if member.isdir():
                        continue
                    name = checked_name(member.name, where)
                    if not member.isreg() or member.issparse():
                        raise UserError(f"{where}: {name} is a link or a device, not a file: refused")
                    if name in names:
                        raise UserError(f"{where}: {name} is in it twice: pack it again")
                    names.add(name)
                    if member.offset_data + member.size > size:
                        raise UserError(f"{where}: cut short inside {name}: fetch it again")
                    if not name.endswith(".tar"):
                        check_size(name, member.size, member.size, where)
                    yield Entry(name, str(path), base + member.offset_data, member.size, member.size)
                end = archive.offset
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise UserError(f"{where}: not a whole tar ({error}): fetch it again") from error
        window.seek(end)
        if window.read(512) != bytes(512):
            raise UserError(
                f"{where}: damaged or cut at byte {end:,}, where a header or its end should be: fetch it again"
            )
