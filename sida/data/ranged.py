"""Sources of a shard's records: a mapped file, or a remote object read by range until its copy has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Protocol

import numpy as np

from sida.data.layout import crc_of
from sida.errors import Corrupt, SidaError
from sida.manifests import Shard
from sida.settings import settings
from sida.stores import ObjectStore
from sida.stores.objects import fetch_object

AT_ONCE_BYTES = 2**30  # a remote data set up to this size is fetched when it is opened
CACHE_SHARE = 0.75  # of the cache that shards may fill
READERS = 16

Answer = Callable[[], np.ndarray]


class ShardReader(Protocol):
    """Records of one shard."""

    def ask(self, places: list[int]) -> Answer:
        """Begin to read records; calling the answer waits for them."""


def open_parts(store: ObjectStore, shards: Sequence[Shard], layout: np.dtype) -> list[ShardReader]:
    """Open one part per shard. Raises Corrupt or NotFound naming a shard that is fetched at once."""
    total = sum(shard.object.size for shard in shards)
    budget = CACHE_SHARE * settings().cache_bytes
    local = all(store.local_path(shard.object.key) is not None for shard in shards)
    if local or total <= min(AT_ONCE_BYTES, budget):
        return [Mapped(store, shard, layout) for shard in shards]
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="read records")
    parts = [Ranged(store, shard, layout, readers) for shard in shards]
    sizes = accumulate(shard.object.size for shard in shards)
    copied = [part for part, size in zip(parts, sizes, strict=True) if size <= budget]
    threading.Thread(target=_copy, args=(copied,), name="copy shards", daemon=True).start()
    return list(parts)


def _copy(parts: list[Ranged]) -> None:
    for part in parts:
        part.fetch()


class Mapped:
    """Verified local file."""

    def __init__(self, store: ObjectStore, shard: Shard, layout: np.dtype) -> None:
        path = fetch_object(store, shard.object)
        if path.stat().st_size != shard.count * layout.itemsize:
            raise Corrupt(f"{path}: {shard.object.name} does not hold {shard.count} records: run prepare_data again")
        self._records = np.memmap(path, layout, "r")

    def ask(self, places: list[int]) -> Answer:
        return lambda: self._records[places]


class Ranged:
    """Remote object: neighboring records in one request, many requests at once, every record checked by its CRC."""

    def __init__(self, store: ObjectStore, shard: Shard, layout: np.dtype, readers: ThreadPoolExecutor) -> None:
        self.shard = shard
        self._store, self._layout, self._readers = store, layout, readers
        self._copy: Mapped | None = None
        self._failure: SidaError | None = None

    def fetch(self) -> None:
        """Bring the whole shard into the cache; from then on it is mapped. A failure is raised by the next reader."""
        try:
            self._copy = Mapped(self._store, self.shard, self._layout)
        except SidaError as error:
            self._failure = error
        except RuntimeError:  # the process is ending
            return

    def ask(self, places: list[int]) -> Answer:
        if self._failure is not None:
            raise self._failure
        if self._copy is not None:
            return self._copy.ask(places)
        ordered = sorted(set(places))
        runs: list[list[int]] = []
        for place in ordered:
            if runs and place == runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
        waiting = [self._readers.submit(self._run, run) for run in runs]

        def answer() -> np.ndarray:
            by_place = dict(zip(ordered, np.concatenate([future.result() for future in waiting]), strict=True))
            return np.array([by_place[place] for place in places], self._layout)

        return answer

    def _run(self, run: list[int]) -> np.ndarray:
        size = self._layout.itemsize
        for _ in range(2):  # a bad answer may have been the network's doing
            content = self._store.read(self.shard.object.key, run[0] * size, len(run) * size)
            if len(content) == len(run) * size:
                records = np.frombuffer(content, self._layout)
                if all(crc_of(record["data"]) == record["crc"] for record in records):
                    return records
        raise Corrupt(
            f"{self._store.address_of(self.shard.object.key)} ({self.shard.object.name}): records {run[0]} to {run[-1]} are "
            f"damaged: delete it and run prepare_data again"
        )
