"""numpy's files of others: .npy and .npz with plain numbers. Headers are read and checked before any data is inflated."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sida.foreign.archives import opened_zip
from sida.foreign.boundary import reading
from sida.foreign.limits import Budget
from sida.foreign.stand_ins import MOST_DIMENSIONS
from sida.printing import one_line

HEADER_BYTES = 4096  # of an array of plain numbers: some 100 are used
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes


class Header(NamedTuple):
    """Beginning of an .npy file: what follows it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    start: int  # of the data, in bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


Check = Callable[[Mapping[str, Header]], None]


def read_npz(path: Path, names: Sequence[str], label: str, check: Check) -> dict[str, np.ndarray]:
    """Return arrays of an npz, read-only. ``check`` sees all headers before any array is inflated, and raises UserError.

    Raises UserError in one line that names the file by ``label``.
    """
    with reading(label, path):
        budget = Budget(path.stat().st_size)
        with opened_zip(path, budget, _METHODS) as archive:
            members = _members(archive)
            if missing := [name for name in names if name not in members]:
                raise ValueError(f"it holds {_listed(members)}, not {' and '.join(missing)}")
            headers = {name: _header_of(archive, name, members[name]) for name in names}
            check(headers)
            for name in names:
                budget.charge(members[name].file_size)
            return {name: _array(headers[name], archive.read(members[name])) for name in names}


def npz_headers(path: Path, label: str) -> dict[str, Header | None]:
    """Return the headers of the arrays in an npz by their names; None for what is no array of plain numbers.

    Raises UserError in one line that names the file by ``label``.
    """
    with reading(label, path), opened_zip(path, Budget(0), _METHODS) as archive:
        headers: dict[str, Header | None] = {}
        for name, member in _members(archive).items():
            try:
                headers[name] = _header_of(archive, name, member)
            except (ValueError, EOFError):
                headers[name] = None
        return headers


def npz_parts(path: Path, name: str, label: str, *, count: int, rows: int) -> Iterator[np.ndarray]:
    """Yield the first ``count`` entries of an array of an npz in C order, ``rows`` at a time: no more of it is ever in memory.

    A member that is read to its end is compared with its checksum. Raises UserError as ``npz_headers``.
    """
    with reading(label, path), opened_zip(path, Budget(0), _METHODS) as archive:
        member = _members(archive)[name]
        header = _header_of(archive, name, member)
        size = math.prod(header.shape[1:]) * header.dtype.itemsize
        with archive.open(member) as file:
            file.read(header.start)
            for start in range(0, count, rows):
                part = file.read(min(rows, count - start) * size)
                if len(part) < min(rows, count - start) * size:
                    raise ValueError(f"{name} breaks off")
                yield np.frombuffer(part, header.dtype).reshape(-1, *header.shape[1:])
            if count == header.shape[0]:
                file.read(1)  # its end, where zipfile compares the checksum


def read_npy(content: bytes) -> np.ndarray:
    """Return the array in an .npy file, read-only. Raises ValueError, or what numpy raises on a hostile header."""
    return _array(_header(content[:HEADER_BYTES]), content)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in archive.infolist()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(one_line(name, 40) for name in list(names)[:8]) or "nothing"


def _header_of(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> Header:
    with archive.open(member) as file:
        header = _header(file.read(HEADER_BYTES))
    if header.size != member.file_size:
        raise ValueError(f"{name} is of {member.file_size:,} bytes, its header says otherwise")
    return header


def _header(head: bytes) -> Header:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an .npy file of version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 2's headers
        shape, fortran, dtype = readers[version](file, max_header_size=HEADER_BYTES)
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        raise ValueError("an array of other things than plain numbers")
    if len(shape) > MOST_DIMENSIONS or not all(0 <= length < 2**48 for length in shape):
        raise ValueError("an array whose shape is not a short list of lengths")
    return Header(shape, dtype, "F" if fortran else "C", file.tell())


def _array(header: Header, content: bytes) -> np.ndarray:
    if header.size != len(content):
        raise ValueError(f"an array of {header.size:,} bytes in {len(content):,}")
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order="F" if header.order == "F" else "C")
