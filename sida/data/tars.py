"""The entries of a tar, refused as a whole where it is damaged or hostile; gzip is unpacked first, to its last byte."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sida.data.entries import Entry, check_size, checked_name
from sida.errors import UserError
from sida.foreign.boundary import reading

MAX_UNPACKED_RATIO = 20  # of a tar.gz of images, beyond a fixed allowance
_ALLOWANCE = 64 * 2**20
_BLOCK = 2**20


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
        file.seek(base)
        with reading(place, archive, "not a whole tar"), tarfile.open(fileobj=file, mode="r:") as opened:
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
