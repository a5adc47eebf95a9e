"""Convert a source to published shards, one after the other; a published shard is not made again after a kill.

A finished shard leaves a record ``data/<digest>/shard-00000.json`` in the store, where the digest covers source, transform and
layout, but not what to do about bad images. So a run that failed over duplicates is repeated with ``skip`` in seconds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from sida.data.decoding import ABSENT, Decode, DecodeOutcome, Decoders, pixels_digest
from sida.data.layout import Record, crc_of
from sida.errors import NotFound, UserError
from sida.layout import shard_key
from sida.manifests import Part, Shard
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef
from sida.stores.objects import intact

if TYPE_CHECKING:
    from sida.data.sources import Source

Put = Callable[[Path, str], ObjectRef]
Encode = Callable[[np.ndarray], np.ndarray]  # an image uint8 [3, H, W] -> a latent record's data
_IMAGES_AT_ONCE = 128  # that wait, decoded, for the encoder


@dataclass(frozen=True)
class Conversion:
    """Conversion of a source: its kind of record, how files are decoded, and the folder of shard records in the store."""

    source: Source
    record: Record
    layout: np.dtype
    shard_bytes: int
    folder: str
    decode: Decode | None = None
    image_layout: np.dtype | None = None  # of decoded images, where they are encoded to latents before they are stored

    @property
    def per_shard(self) -> int:
        return max(1, self.shard_bytes // self.layout.itemsize)

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.per_shard)

    def part(self, number: int) -> slice:
        """Return the source's images that shard ``number`` is made of."""
        return slice(number * self.per_shard, min(len(self.source), (number + 1) * self.per_shard))

    def images(self, number: int) -> int:
        """Return how many they are."""
        part = self.part(number)
        return part.stop - part.start


class ShardRecord(Part):
    """Published shard: its readable images in order, a digest for every image of its part, and what was wrong with others."""

    shard: Shard
    digests: ObjectRef  # DIGEST_BYTES for each; zeros for unreadable ones
    unreadable: tuple[tuple[str, str], ...]  # name, reason
    rotated: int
    content: str  # sha256 over the sha256 of the files
    cropped: int = 0  # images that a crop took something of
    left_out: int = 0  # their pixels outside of the crop
    uncropped: int = 0  # all of their pixels
    lossy: int | None = None  # images compressed with loss; earlier versions did not count them
    etags: dict[str, str] = Field(
        default_factory=dict
    )  # object key -> etag at publication; earlier versions recorded none


def finished(store: ObjectStore, conversion: Conversion, number: int) -> ShardRecord | None:
    """Return the record of a shard that was published before and still exists."""
    try:
        record = ShardRecord.model_validate_json(store.read(shard_key(conversion.folder, number)))
        whole = all(intact(store, ref, record.etags.get(ref.key)) for ref in (record.shard.object, record.digests))
    except (NotFound, ValueError):
        return None
    return record if whole else None


def convert(
    conversion: Conversion,
    store: ObjectStore,
    put: Put,
    scratch: Path,
    *,
    numbers: Iterable[int] | None = None,
    encode: Encode | None = None,
    progress: Callable[[int], None] = lambda done: None,
    processes: int | None = None,
) -> int:
    """Make and publish the shards that are missing (of ``numbers``, or all); return how many were already finished.

    A shard is stored while the next one is decoded. ``progress`` receives how many images are done. Raises UserError when
    the disk is full.
    """
    reused = done = 0
    decoding = Decoders(conversion.decode, processes) if conversion.decode else nullcontext()
    with ThreadPoolExecutor(1, thread_name_prefix="store shard") as background, decoding as decoders:
        storing: Future[None] | None = None
        for number in range(conversion.shards) if numbers is None else numbers:
            if finished(store, conversion, number):
                reused += 1
                done += conversion.images(number)
                progress(done)
                continue
            path = scratch / f"shard-{number:05d}.bin"
            outcomes: list[DecodeOutcome] = []
            for some in _fill(conversion, number, path, decoders, encode):
                outcomes += some
                progress(done + len(outcomes))
            done += len(outcomes)
            if storing is not None:
                storing.result()
            storing = background.submit(_publish, conversion, store, put, number, path, outcomes)
        if storing is not None:
            storing.result()
    return reused


def _fill(
    conversion: Conversion,
    number: int,
    path: Path,
    decoders: Decoders | None,
    encode: Encode | None,
) -> Iterator[list[DecodeOutcome]]:
    """Write a shard's records, at first with gaps where images are unreadable; yield outcomes in order, some at a time."""
    source, part, count = conversion.source, conversion.part(number), conversion.images(number)
    reserve(path, count * conversion.layout.itemsize)
    labels = np.full(count, -1, np.int32) if source.labels is None else source.labels[part]
    if decoders is None:
        return _copy(conversion, part, path, labels)
    if encode is None:
        return decoders.run(path, conversion.layout, source.entries[part], labels)
    return _encode(conversion, part, path, labels, decoders, encode)


def _copy(conversion: Conversion, part: slice, path: Path, labels: np.ndarray) -> Iterator[list[DecodeOutcome]]:
    """Write the images of a source that holds pixels; empty ones for a source of labels alone."""
    records = np.memmap(path, conversion.layout, "r+")
    records["label"] = labels
    if conversion.source.images is not None:
        records["data"] = conversion.source.images[part]
    for record in records:
        record["crc"] = crc_of(record["data"])
    digests = [pixels_digest(data) if data.size else ABSENT for data in records["data"]]
    contents = [
        hashlib.sha256(data.data).digest() for data in records["data"]
    ]  # for files that no archive's digest covers
    yield [DecodeOutcome(digest, None, False, content) for digest, content in zip(digests, contents, strict=True)]


def _encode(
    conversion: Conversion, part: slice, path: Path, labels: np.ndarray, decoders: Decoders, encode: Encode
) -> Iterator[list[DecodeOutcome]]:
    """Decode images to a file beside the shard's, a few at a time, and write them encoded."""
    assert conversion.image_layout is not None
    records = np.memmap(path, conversion.layout, "r+")
    records["label"] = labels
    entries, images_path = conversion.source.entries[part], path.with_suffix(".images")
    for start in range(0, len(records), _IMAGES_AT_ONCE):
        some = slice(start, start + _IMAGES_AT_ONCE)
        reserve(images_path, len(entries[some]) * conversion.image_layout.itemsize)
        decoded = decoders.run(images_path, conversion.image_layout, entries[some], labels[some])
        outcomes = list(chain.from_iterable(decoded))
        images = np.memmap(images_path, conversion.image_layout, "r")
        for record, image, outcome in zip(records[some], images, outcomes, strict=True):
            if outcome.reason is None:
                record["data"] = encode(image["data"])
                record["crc"] = crc_of(record["data"])
            yield [outcome]
        images_path.unlink()


def reserve(path: Path, size: int) -> None:
    """Create a file of that size with its blocks allocated: writing through a map to a full disk would kill the process.

    Raises UserError when the disk is full.
    """
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: cannot hold a shard of {size:,} bytes ({error.strerror}): free space or set TMPDIR"
        ) from error


def _publish(
    conversion: Conversion, store: ObjectStore, put: Put, number: int, path: Path, outcomes: list[DecodeOutcome]
) -> None:
    """Close the gaps, store the shard and its digests, then its record."""
    part = conversion.part(number)
    readable = np.array([outcome.reason is None for outcome in outcomes])
    if not readable.all():
        kept = np.memmap(path, conversion.layout, "r")[readable]
        path.unlink()
        kept.tofile(path)
    digests = path.with_suffix(".digests")
    digests.write_bytes(b"".join(outcome.digest for outcome in outcomes))
    content = hashlib.sha256(b"".join(outcome.content for outcome in outcomes)).hexdigest()
    unreadable = tuple(
        (name_of(conversion.source, part.start + place), str(outcome.reason))
        for place, outcome in enumerate(outcomes)
        if outcome.reason is not None
    )
    cropped = [outcome for outcome in outcomes if outcome.left_out]
    stored = [put(file, file.name) for file in (path, digests)]
    record = ShardRecord(
        shard=Shard(object=stored[0], count=int(readable.sum())),
        digests=stored[1],
        etags={ref.key: store.stat(ref.key).etag for ref in stored},
        unreadable=unreadable,
        rotated=sum(outcome.rotated for outcome in outcomes),
        content=content,
        cropped=len(cropped),
        left_out=sum(outcome.left_out for outcome in cropped),
        uncropped=sum(outcome.pixels for outcome in cropped),
        lossy=sum(outcome.lossy for outcome in outcomes),
    )
    store.put(shard_key(conversion.folder, number), record.model_dump_json().encode())
    path.unlink()
    digests.unlink()


def name_of(source: Source, index: int) -> str:
    """Return an image's name in messages and lists."""
    return source.entries[index].name if source.entries else f"image {index}"
