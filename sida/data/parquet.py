"""Parquet as Hugging Face writes it: in each row a picture's bytes and a label. Rows are read in order, a few at a time.

What a file claims is bounded by its size before anything is made of it. A picture that is given by its path alone is unreadable:
no path in a file is followed.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.data.entries import MAX_ENTRY_BYTES, MAX_RATIO, PARQUET, Entry, Unreadable, is_hidden
from sida.data.folders import entries_of
from sida.data.labels import SPLITS
from sida.data.patterns import expand
from sida.errors import UserError
from sida.foreign.boundary import reading
from sida.foreign.json_values import parse_json
from sida.printing import one_line

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

ENDING = ".parquet"
MAGIC = b"PAR1"
ROWS = 16  # of pictures held at a time
ORDER_NOTE = "rows are taken in the order of the files, which need not be that of the set as its authors publish it"
_ROW_BYTES = 16  # no picture takes less of a file
_FOOTER_BYTES = 64 * 2**20  # places and statistics: a KB or two for each row group
_PART = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?:-[0-9a-f]+)?\.parquet")


def parquet_files(path: Path, scratch: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return names and paths of the files to train on, and the names of files that are left out: of other parts than train.

    Raises UserError where it is not clear which part is meant, or one of the files train-00000-of-00005 is not there.
    """
    if not path.is_dir():
        found = [(file.name, file) for file in expand(path)]
        _refuse_gaps(found, path)
        return found, []
    names = [entry.name for entry in entries_of(path, scratch) if not entry.name.endswith("/")]
    found = [(name, path / name) for name in names if name.endswith(ENDING) and not is_hidden(name)]
    if not found:
        raise UserError(f"{path}: no {ENDING} in it: correct dataset.address")
    splits = sorted({_split(name) for name, _ in found})
    if len(splits) > 1:
        if "train" not in splits:
            raise UserError(
                f"{path}: holds {', '.join(splits)}, and no train: name the files of one in dataset.address"
            )
        found = [each for each in found if _split(each[0]) == "train"]
    folders = sorted({name.rpartition("/")[0] for name, _ in found})
    if len(folders) > 1:
        raise UserError(
            f"{path}: {folders[0] or '.'} and {folders[1]} hold {ENDING} files: name one of them in dataset.address"
        )
    _refuse_gaps(found, path)
    taken = {name for name, _ in found}
    return found, [name for name in names if name not in taken]


def _split(name: str) -> str:
    """Return the part of the set that a file belongs to, by its own name or its folder's."""
    folder, _, file = name.rpartition("/")
    if match := _PART.fullmatch(file):
        return match["split"]
    parent = folder.rpartition("/")[2]
    return parent if parent in SPLITS else ""


def _refuse_gaps(files: list[tuple[str, Path]], place: Path) -> None:
    matches = [match for name, _ in files if (match := _PART.fullmatch(name.rpartition("/")[2]))]
    if not matches:
        return
    first, numbers = matches[0], {int(match["number"]) for match in matches}
    count = int(first["of"])
    if len(matches) != len(files) or any(match["of"] != first["of"] for match in matches) or len(numbers) != len(files):
        raise UserError(f"{place}: holds files of several sets beside {first[0]}: name those of one in dataset.address")
    if missing := sorted(set(range(count)) - numbers):
        raise UserError(
            f"{place}: {len(missing):,} of {count:,} files are missing, first {first['split']}-{missing[0]:05d}-of-{first['of']}: "
            f"fetch them, and name the folder of all (or rename what is there, to train on it alone)"
        )


def parquet_entries(
    files: list[tuple[str, Path]], classes: int
) -> tuple[list[Entry], np.ndarray | None, tuple[str, ...]]:
    """Return a row's picture each, in the order of the files, labels int32 [N] where there are ``classes``, and their names.

    Raises UserError naming the file: damaged ones, columns that are not there, a row without a label.
    """
    entries: list[Entry] = []
    labels: list[np.ndarray] = []
    names: tuple[str, ...] = ()
    for name, path in files:
        file = open_parquet(path)
        _picture_column(file.schema_arrow, path)
        rows = file.metadata.num_rows
        entries += [Entry(f"{name}/{row}", str(path), row, 0, 0, PARQUET) for row in range(rows)]
        if classes:
            column, names = _label_column(file.schema_arrow, classes, path)
            labels.append(_labels(file, column, path))
            if len(labels[-1]) != rows:
                raise UserError(f"{path}: has {len(labels[-1]):,} labels and {rows:,} rows: fetch it again")
        file.close()
    return entries, np.concatenate(labels) if labels else None, names


def open_parquet(path: Path) -> ParquetFile:
    """Return an open file. Raises UserError when pyarrow is missing, or for a file that is damaged or claims too much."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"source parquet needs the package pyarrow: pip install 'pyarrow>=17' ({error})") from error
    with reading(str(path), path, "not a whole Parquet file"):
        with path.open("rb") as content:
            size = content.seek(0, os.SEEK_END)
            content.seek(max(0, size - 8))
            tail = content.read(8)
        if tail[4:] != MAGIC:
            raise UserError(f"{path}: no Parquet file, or cut short (it does not end with PAR1): fetch it again")
        if (footer := int.from_bytes(tail[:4], "little")) > min(size, _FOOTER_BYTES):
            raise UserError(f"{path}: claims a footer of {footer:,} bytes: refused as a bomb")
        file = ParquetFile(path, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        counts = [group.num_rows for group in groups]
        if min(counts, default=0) < 0 or sum(counts) != file.metadata.num_rows or sum(counts) > size // _ROW_BYTES:
            raise UserError(f"{path}: claims {file.metadata.num_rows:,} rows in {size:,} bytes: refused as a bomb")
        # Not of each column: a column whose statistics are spoilt ends the process in pyarrow 25 when Python asks for it.
        if (raw := sum(group.total_byte_size for group in groups)) > max(2**20, MAX_RATIO * size):
            raise UserError(f"{path}: inflates {raw:,} bytes from {size:,}: refused as a bomb")
    return file


def _picture_column(schema: Schema, path: Path) -> str:
    """Return the column of pictures, for pyarrow: that of bytes, alone or beside a path. Raises UserError when it is not clear."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = {field.name: field.name for field in schema if is_bytes(field.type)}
    for field in schema:
        if types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type):
            found[field.name] = f"{field.name}.bytes"
    wanted = list(found) if len(found) == 1 else [name for name in ("image", "img") if name in found]
    if not wanted:
        raise UserError(
            f"{path}: has {len(found)} columns of pictures as bytes, none called image, among {_shown(schema)}: keep one, image"
        )
    return found[wanted[0]]


def _label_column(schema: Schema, classes: int, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the column of labels, and the names of its classes where the file has them."""
    from pyarrow import types

    numbers = [field.name for field in schema if types.is_integer(field.type)]
    named = {name: names for name, names in _class_names(schema, path).items() if name in numbers}
    fitting = [name for name, names in named.items() if len(names) == classes]
    column = "label" if "label" in numbers else fitting[0] if len(fitting) == 1 else ""
    if not column:
        raise UserError(
            f"{path}: has no column label of whole numbers, nor one of {classes} classes, among {_shown(schema)}: set "
            f"dataset.classes to 0, or call it label"
        )
    names = named.get(column, ())
    if names and len(names) != classes:
        raise UserError(
            f"{path}: names {len(names)} classes in its column {column}, dataset.classes says {classes}: correct it"
        )
    return column, names


def _class_names(schema: Schema, path: Path) -> dict[str, tuple[str, ...]]:
    """Return the names of classes by column, from what Hugging Face's library writes beside the schema."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    with reading(str(path), path, "described by JSON that is none"):
        described = parse_json(text)
    for key in ("info", "features"):
        described = described.get(key) if isinstance(described, dict) else None
    found: dict[str, tuple[str, ...]] = {}
    for column, feature in (described if isinstance(described, dict) else {}).items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and names and all(isinstance(name, str) and len(name) <= 255 for name in names):
            found[column] = tuple(names)
    return found


def _labels(file: ParquetFile, column: str, path: Path) -> np.ndarray:
    with reading(str(path), path, "damaged"):
        values = file.read(columns=[column], use_threads=False).column(0)
    if values.null_count:
        row = values.is_null().to_numpy().argmax()
        raise UserError(f"{path}: row {row} has no label in column {column}: label all, or set dataset.classes to 0")
    labels: np.ndarray = values.to_numpy()
    if len(labels) and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise UserError(f"{path}: column {column} holds {labels.max()}: expected classes, from 0 on")
    return labels.astype(np.int32)


def _shown(schema: Schema) -> str:
    return one_line(", ".join(f"{field.name}: {field.type}" for field in schema), 100)


class _Rows:
    """Pictures of one file. Reading goes on where it was; a step back begins at the row group's first row."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open_parquet(Path(path))
        self._column = _picture_column(self._file.schema_arrow, Path(path))
        groups = range(self._file.metadata.num_row_groups)
        self._ends = list(accumulate(self._file.metadata.row_group(number).num_rows for number in groups))
        self._batches: Iterator[Any] = iter(())
        self._group, self._first, self._held = -1, 0, None

    def read(self, row: int) -> bytes:
        group = bisect_right(self._ends, row)
        with reading(self._path, Path(self._path), f"damaged in row group {group}"):
            if group != self._group or row < self._first:
                self._batches = self._file.iter_batches(ROWS, [group], [self._column], use_threads=False)
                self._group, self._first, self._held = group, self._ends[group - 1] if group else 0, None
            while self._held is None or row >= self._first + len(self._held):
                self._first += 0 if self._held is None else len(self._held)
                batch = next(self._batches, None)
                if batch is None:
                    raise UserError(f"{self._path}: row group {group} ends before row {row}: fetch it again")
                self._held = batch.column(0)
            value = self._held[row - self._first].as_py()
        value = value["bytes"] if isinstance(value, dict) else value
        if value is None:
            raise Unreadable("is not in the file, which has a path at most")
        if len(value) > MAX_ENTRY_BYTES:
            raise Unreadable(f"is {len(value):,} bytes, more than {MAX_ENTRY_BYTES:,}: refused as a bomb")
        return bytes(value)


def read_row(entry: Entry) -> bytes:
    """Return the bytes of a row's picture. Raises Unreadable for one that is not there, UserError for a damaged file."""
    status = os.stat(entry.path)
    return _rows(entry.path, (status.st_ino, status.st_mtime_ns, status.st_size)).read(entry.offset)


@lru_cache(maxsize=1)  # for each process: tasks follow one another along a file, and a row group is inflated once
def _rows(path: str, state: tuple[int, ...]) -> _Rows:
    return _Rows(path)
