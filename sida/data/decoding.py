"""Decoding on all cores: processes that read, decode and write records straight into the shard's file.

They import numpy and Pillow alone, and send back a few bytes for each image: they cost little beyond decoding.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sida.data.entries import Decoded, Entry, Reader, Unreadable
from sida.data.layout import crc_of
from sida.errors import SidaError
from sida.process.parent import die_with_parent

CHUNK = 64  # entries a task
DIGEST_BYTES = 16
ABSENT = bytes(DIGEST_BYTES)  # in place of the digest of an image that could not be read

Decode = Callable[[bytes], Decoded]


class DecodeOutcome(NamedTuple):  # a tuple travels between processes in half the time of a dataclass
    """One entry: digest of its pixels, or the reason why there are none; sha256 of the file's bytes; what was lost."""

    digest: bytes
    reason: str | None
    rotated: bool
    content: bytes
    left_out: int = 0
    pixels: int = 0
    lossy: bool = False


def pixels_digest(data: np.ndarray) -> bytes:
    """Return a digest that is equal exactly for equal data."""
    return hashlib.blake2b(np.ascontiguousarray(data).data, digest_size=DIGEST_BYTES).digest()


def decode_into(
    path: Path, layout: np.dtype, first: int, entries: Sequence[Entry], labels: np.ndarray, decode: Decode
) -> list[DecodeOutcome]:
    """Write the entries' records, with their labels int32 [N], into slots ``first`` .. of the file."""
    outcomes = []
    records = np.zeros(len(entries), layout)
    records["label"] = labels
    images, checksums = records["data"], records["crc"]
    with closing(Reader()) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters about a file makes it unreadable
        for slot, entry in enumerate(entries):
            content = b""
            try:
                content = reader.read(entry)
                decoded = decode(content)
                data = decoded.data
                if data.shape != images.shape[1:]:
                    raise Unreadable(f"holds {list(data.shape)}, not {list(images.shape[1:])}")
            except Unreadable as error:
                outcomes.append(DecodeOutcome(ABSENT, str(error), False, _content_digest(entry, content)))
                continue
            data = np.ascontiguousarray(data)
            images[slot] = data
            checksums[slot] = crc_of(data)
            digest, read = pixels_digest(data), _content_digest(entry, content)
            about = decoded.rotated, read, decoded.left_out, decoded.pixels, decoded.lossy
            outcomes.append(DecodeOutcome(digest, None, *about))
    with path.open("r+b") as file:  # in one piece: through a map every page would be fetched first
        file.seek(first * layout.itemsize)
        file.write(records.view("u1").data)
    return outcomes


def _content_digest(entry: Entry, content: bytes) -> bytes:
    """Return the sha256 of a file on disk; empty in an archive, which is hashed as a whole."""
    return hashlib.sha256(content).digest() if entry.crc is None else b""


class Decoders:
    """Pool of decoding processes, started at first use; a handful of images is decoded in this process."""

    def __init__(self, decode: Decode, processes: int | None = None) -> None:
        self.decode = decode
        self.processes = processes or cores()
        self._pool: ProcessPoolExecutor | None = None

    def run(
        self, path: Path, layout: np.dtype, entries: Sequence[Entry], labels: np.ndarray
    ) -> Iterator[list[DecodeOutcome]]:
        """Decode entries into the slots 0 .. of the file; yield outcomes in order, some at a time."""
        parts = [slice(start, start + CHUNK) for start in range(0, len(entries), CHUNK)]
        if len(entries) <= 2 * CHUNK or self.processes == 1:
            for part in parts:
                yield decode_into(path, layout, part.start, entries[part], labels[part], self.decode)
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=die_with_parent)
        try:
            waiting = [
                self._pool.submit(decode_into, path, layout, part.start, entries[part], labels[part], self.decode)
                for part in parts
            ]
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise SidaError(
                "a decoding process was killed, perhaps for want of memory: run again, it goes on from the last shard"
            ) from error

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
