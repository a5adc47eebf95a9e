"""The entries of a tar, refused as a whole where it is damaged or hostile; gzip is unpacked first, to its last byte."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from sida.data.entries import Entry, check_size, checked_name
from sida.errors import UserError
from sida.foreign.boundary import reading

MAX_UNPACKED_RATIO = 20  # of a tar.gz of images, beyond a fixed allowance
HEADER_BYTES = 2**20  # of a long name, or of pax's fields, which tarfile reads whole
_ALLOWANCE = 64 * 2**20
_BLOCK = 2**20


class _Headers(io.FileIO):
    """A tar of which only headers are read, by whoever reads whatever size they claim."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= HEADER_BYTES:
            raise ValueError(f"a header of more than {HEADER_BYTES:,} bytes")
        return super().read(size)


def looks_like_tar(path: Path) -> bool:
    """Return whether a file, or what is gzipped in it, begins as a tar does; no more than that is read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return True


def unpacked(path: Path, folder: Path) -> Path:
    """Return the tar itself: ``path``, or its gunzipped copy in ``folder``, read to the end so that gzip's CRC is checked.

    Raises UserError when it is damaged or inflates like a bomb; OSError when the disk is full.
    """
    size = 0
    with reading(str(path), path, "damaged"):
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return path
        limit = _ALLOWANCE + MAX_UNPACKED_RATIO * path.stat().st_size
        plain = folder / f"{path.name}.tar"
        with gzip.open(path) as packed, plain.open("wb") as file:
            while block := packed.read(_BLOCK):
                size += len(block)
                if size > limit:
                    raise UserError(f"{path}: inflates to more than {limit:,} bytes: refused as a bomb")
                file.write(block)
    return plain


def tar_entries(path: Path, archive: Path, inside: Entry | None = None) -> Iterator[Entry]:
    """Return all files of a tar, or of the tar that ``inside`` is, in its order; folders too, with a slash at the end.

    Raises UserError naming the user's ``archive``, which ``path`` may be an unpacked copy of: damaged headers and cuts (which
    Python's tarfile passes over), what follows its end, links, devices, names that lead out of it, the same name twice.
    """
    place = f"{archive} ({inside.name})" if inside else str(archive)
    base, size = (inside.offset, inside.size) if inside else (0, path.stat().st_size)
    names: set[str] = set()
    with path.open("rb", buffering=2**16) as file:
        with (
            reading(place, archive, "not a whole tar"),
            _Headers(path) as headers,
            tarfile.open(fileobj=_from(headers, base), mode="r:") as opened,
        ):
            while True:
                end = opened.offset
                member = opened.next()
                if member is None or member.offset_data > base + size:  # a header beyond the end of an inner tar
                    break
                opened.members = []  # type: ignore[attr-defined]  # or it would keep them all
                name = checked_name(member.name, place)
                if member.isdir():
                    yield Entry(f"{name}/", str(path), 0, 0, 0)
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{place}: {name} is a link or a device, not a file: refused")
                if name in names:
                    raise UserError(f"{place}: {name} is in it twice: pack it again")
                names.add(name)
                if member.offset_data + member.size > base + size:
                    raise UserError(f"{place}: cut short inside {name}: fetch it again")
                if not name.endswith(".tar"):
                    check_size(name, member.size, member.size, place)
                yield Entry(name, str(path), member.offset_data, member.size, member.size)
        file.seek(end)
        if end + 512 > base + size or file.read(512) != bytes(512):
            raise UserError(
                f"{place}: damaged or cut at byte {end - base:,}, where a header or its end should be: fetch it again"
            )
        while block := file.read(min(_BLOCK, base + size - file.tell())):
            if block.strip(b"\0"):
                raise UserError(
                    f"{place}: more follows its end at byte {end - base:,}: two tars in one? Pack them as one"
                )


def _from(file: _Headers, offset: int) -> _Headers:
    file.seek(offset)
    return file
