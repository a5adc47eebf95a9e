"""Files of a data set wherever they are: in a folder, a zip, a tar, or a tar inside a tar.

An entry is a place (file, offset, size), so that any process reads it by itself, at random, without walking an archive again.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from pathlib import Path
from struct import unpack
from typing import NamedTuple

import numpy as np

from sida.errors import SidaError, UserError
from sida.foreign.boundary import LFS_POINTER

MAX_ENTRY_BYTES = 256 * 2**20  # no image or label file of any published data set comes near
MAX_RATIO = 200  # of inflated to deflated bytes, for entries above a mebibyte: images do not shrink like that
STORED, DEFLATED = 0, 8  # zip's numbers; entries outside a zip are stored
PARQUET = -1  # a row of a Parquet file, whose number is the offset; sizes are not known before it is read


class Unreadable(SidaError):
    """The bytes of an entry are not what the archive says, or are no image; the message does not name it."""


class Entry(NamedTuple):
    """File of a source: its name and the place of its bytes. ``raw`` is its size in bytes once inflated."""

    name: str
    path: str
    offset: int
    size: int
    raw: int
    method: int = STORED
    crc: int | None = None  # given for entries of a zip, whose offset is that of the local header


class Decoded(NamedTuple):
    """Data of one file, as the data set holds it, and what was not taken of the picture."""

    data: np.ndarray  # [channels, resolution, resolution]
    rotated: bool = False  # EXIF asks for a rotation that was ignored
    left_out: int = 0  # pixels that a crop cut off
    pixels: int = 0  # of the picture as it was
    lossy: bool = False  # the file was compressed with loss


def is_hidden(name: str) -> bool:
    """Return whether a file is the system's and not the user's: ._a.png, anything under .folder or __MACOSX.

    .a.png is an image, as in NVIDIA's tools.
    """
    *folders, file = name.split("/")
    return file.startswith("._") or any(folder.startswith(".") or folder == "__MACOSX" for folder in folders)


def checked_name(name: str, place: str | Path) -> str:
    """Return the name without a leading ``./``. Raises UserError for one that leaves the archive or is not UTF-8."""
    printable = name.encode("utf-8", "backslashreplace").decode()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the name {printable!r} is not UTF-8: rename it, then pack again") from error
    plain = name.removeprefix("./")
    if plain.startswith("/") or "\0" in plain or ".." in plain.replace("\\", "/").split("/"):
        raise UserError(f"{place}: {printable!r} leads out of the archive: refused; do not use this archive")
    if "\\" in plain:
        raise UserError(f"{place}: the name {printable!r} has a backslash: rename it, with / between folders")
    return plain


def check_size(name: str, size: int, raw: int, place: str | Path) -> None:
    """Raise UserError for an entry that would fill memory."""
    if raw > MAX_ENTRY_BYTES or size > MAX_ENTRY_BYTES:
        raise UserError(f"{place}: {name} is {raw:,} bytes, more than {MAX_ENTRY_BYTES:,}: refused as a bomb")
    if raw > 2**20 and raw > MAX_RATIO * max(size, 1):
        raise UserError(f"{place}: {name} inflates {raw / max(size, 1):,.0f} times: refused as a bomb")


class Reader:
    """Reader of entries; keeps a few archives open. One for each process or thread."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, entry: Entry) -> bytes:
        """Return an entry's bytes, inflated and checked. Raises Unreadable; UserError for a damaged Parquet file."""
        try:
            if entry.method == PARQUET:
                from sida.data.parquet import read_row  # pyarrow, for those alone who read such files

                return read_row(entry)
            file = self._file(entry.path)
            content = _exactly(file, entry.offset, entry.size) if entry.crc is None else _from_zip(file, entry)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from error
        except zlib.error as error:
            raise Unreadable(f"is damaged in the archive: {error}") from error
        if content.startswith(LFS_POINTER):
            raise Unreadable("is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned")
        return content

    def _file(self, path: str) -> int:
        file = self._open.pop(path, None)
        if file is None:
            file = os.open(path, os.O_RDONLY)
            while len(self._open) >= 8:
                os.close(self._open.popitem(last=False)[1])
        self._open[path] = file
        return file

    def close(self) -> None:
        """Close the open archives."""
        while self._open:
            os.close(self._open.popitem()[1])


def _exactly(file: int, offset: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.pread(file, size - len(data), offset + len(data))
        if not more:
            raise Unreadable(f"is cut short: {len(data):,} of {size:,} bytes")
        data += more
    return data


def _from_zip(file: int, entry: Entry) -> bytes:
    """Return the bytes after the local header, whose name and extra field may differ in length from those in the directory."""
    header = _exactly(file, entry.offset, 30)
    if header[:4] != b"PK\3\4":
        raise Unreadable("has no header where the zip's directory says")
    name_size, extra_size = unpack("<HH", header[26:30])
    data = _exactly(file, entry.offset + 30 + name_size + extra_size, entry.size)
    if entry.method == DEFLATED:
        inflater = zlib.decompressobj(-15)
        data = inflater.decompress(data, entry.raw + 1)
    if len(data) != entry.raw or zlib.crc32(data) != entry.crc:
        raise Unreadable("is damaged in the archive: its CRC differs")
    return data
