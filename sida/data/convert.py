"""Convert a source to published shards, one after the other; a published shard is not made again after a kill.

A finished shard leaves a record ``data/<digest>/shard-00000.json`` in the store, where the digest covers source, transform and
layout, but not what to do about bad images. So a run that failed over duplicates is repeated with ``skip`` in seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.decoding import ABSENT, Decode, Decoders, Outcome, pixels_digest
from sida.data.layout import crc_of, records_per_shard
from sida.data.sources import Source
from sida.errors import NotFound, UserError
from sida.layout import shard_key
from sida.manifests import Shard
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef

Put = Callable[[Path, str], ObjectRef]
Encode = Callable[[np.ndarray], np.ndarray]  # an image uint8 [3, H, W] -> a latent record's data
_IMAGES_AT_ONCE = 128  # that wait, decoded, for the encoder


@dataclass(frozen=True)
class Conversion:
    """Conversion of a source: its records' layout, how files are decoded, and the folder of shard records in the store."""

    source: Source
    layout: np.dtype
    shard_bytes: int
    folder: str
    decode: Decode | None = None
    image_layout: np.dtype | None = None  # of decoded images, where they are encoded to latents before they are stored

    @property
    def per_shard(self) -> int:
        return records_per_shard(self.layout, self.shard_bytes)

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.per_shard)

    def part(self, number: int) -> slice:
        """Return the source's images that shard ``number`` is made of."""
        return slice(number * self.per_shard, min(len(self.source), (number + 1) * self.per_shard))


@dataclass(frozen=True)
class Made:
    """Published shard: its readable images in order, a digest for every image of its part, and what was wrong with others."""

    shard: Shard
    digests: ObjectRef  # DIGEST_BYTES for each; zeros for unreadable ones
    unreadable: tuple[tuple[str, str], ...]  # name, reason
    rotated: int
    content: str  # sha256 over the sha256 of the files

    def to_json(self) -> bytes:
        return json.dumps(
            asdict(self) | {"shard": {"object": asdict(self.shard.object), "count": self.shard.count}}
        ).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Made:
        fields = json.loads(content)
        shard = Shard(object=ObjectRef(**fields["shard"]["object"]), count=fields["shard"]["count"])
        unreadable = tuple((name, reason) for name, reason in fields["unreadable"])
        return cls(shard, ObjectRef(**fields["digests"]), unreadable, fields["rotated"], fields["content"])


def finished(store: ObjectStore, conversion: Conversion, number: int) -> Made | None:
    """Return the record of a shard that was published before and still exists."""
    try:
        record = Made.from_json(store.read(shard_key(conversion.folder, number)))
        for ref in (record.shard.object, record.digests):
            if store.stat(ref.key).size != ref.size:
                return None
    except (NotFound, ValueError, KeyError, TypeError):
        return None
    return record


def convert(
    conversion: Conversion,
    store: ObjectStore,
    put: Put,
    scratch: Path,
    *,
    numbers: Iterable[int] | None = None,
    encode: Encode | None = None,
    progress: Callable[[int], None] = lambda images: None,
    processes: int | None = None,
) -> int:
    """Make and publish the shards that are missing (of ``numbers``, or all); return how many were already finished.

    A shard is stored while the next one is decoded. ``progress`` receives the number of images just processed. Raises
    UserError when the disk is full.
    """
    reused = 0
    decoders = Decoders(conversion.decode, processes) if conversion.decode else None
    storing: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="store shard") as background:
        try:
            for number in range(conversion.shards) if numbers is None else numbers:
                part = conversion.part(number)
                if finished(store, conversion, number):
                    reused += 1
                    progress(part.stop - part.start)
                    continue
                path = scratch / f"shard-{number:05d}.bin"
                outcomes = _fill(conversion, number, path, decoders, encode, progress)
                if storing is not None:
                    storing.result()
                storing = background.submit(_publish, conversion, store, put, number, path, outcomes)
        finally:
            if decoders is not None:
                decoders.close()
        if storing is not None:
            storing.result()
    return reused


def _fill(
    conversion: Conversion,
    number: int,
    path: Path,
    decoders: Decoders | None,
    encode: Encode | None,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Write a shard's records, at first with gaps where images are unreadable."""
    source, part = conversion.source, conversion.part(number)
    count = part.stop - part.start
    reserve(path, count * conversion.layout.itemsize)
    labels = np.full(count, -1, np.int32) if source.labels is None else source.labels[part]
    outcomes: list[Outcome] = []
    if decoders is not None and encode is None:
        for some in decoders.run(path, conversion.layout, source.entries[part], labels):
            outcomes += some
            progress(len(some))
        return outcomes
    records = np.memmap(path, conversion.layout, "r+")
    records["label"] = labels
    if decoders is None or encode is None:
        for record, image in zip(records, _arrays(source, part, conversion.layout), strict=True):
            record["data"] = image
            record["crc"] = crc_of(record["data"])
            outcomes.append(Outcome(pixels_digest(image) if image.size else ABSENT, None, False, b""))
        progress(count)
    else:
        assert conversion.image_layout is not None
        for start in range(part.start, part.stop, _IMAGES_AT_ONCE):
            entries = source.entries[start : min(part.stop, start + _IMAGES_AT_ONCE)]
            images_path = path.with_suffix(".images")
            reserve(images_path, len(entries) * conversion.image_layout.itemsize)
            of_these = labels[start - part.start :][: len(entries)]
            ran = decoders.run(images_path, conversion.image_layout, entries, of_these)
            some = [outcome for outcomes_ in ran for outcome in outcomes_]
            images = np.memmap(images_path, conversion.image_layout, "r")
            for place, outcome in enumerate(some):
                if outcome.reason is None:
                    record = records[start - part.start + place]
                    record["data"] = encode(images[place]["data"])
                    record["crc"] = crc_of(record["data"])
                progress(1)
            outcomes += some
            images_path.unlink()
    return outcomes


def _arrays(source: Source, part: slice, layout: np.dtype) -> Any:
    """Return the images of a source that holds pixels; empty ones for a source of labels alone."""
    if source.images is not None:
        return source.images[part]
    return np.empty((part.stop - part.start, *layout["data"].shape), np.uint8)


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
    conversion: Conversion, store: ObjectStore, put: Put, number: int, path: Path, outcomes: list[Outcome]
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
    record = Made(
        shard=Shard(object=put(path, path.name), count=int(readable.sum())),
        digests=put(digests, digests.name),
        unreadable=unreadable,
        rotated=sum(outcome.rotated for outcome in outcomes),
        content=content,
    )
    store.put(shard_key(conversion.folder, number), record.to_json())
    path.unlink()
    digests.unlink()


def name_of(source: Source, index: int) -> str:
    """Return an image's name in messages and lists."""
    return source.entries[index].name if source.entries else f"image {index}"


def duplicates(digests: np.ndarray) -> list[tuple[int, int]]:
    """Return (image, the first one that it equals), by image, of uint8 [N, 16]; absent ones equal nothing."""
    words = np.ascontiguousarray(digests).view("<u8").reshape(len(digests), -1)
    order = np.lexsort(words.T)
    same = (words[order][1:] == words[order][:-1]).all(1)
    pairs: list[tuple[int, int]] = []
    first = -1
    for place in np.flatnonzero(same):
        if place == 0 or not same[place - 1]:
            first = int(order[place])
        if words[order[place]].any():
            pairs.append((int(order[place + 1]), first))
    return sorted(pairs)
