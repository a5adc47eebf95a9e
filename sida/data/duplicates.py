"""Find duplicates among images, and leave them out of shards that are published already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sida.data.convert import Conversion, Put, ShardRecord
from sida.data.decoding import DIGEST_BYTES
from sida.manifests import Shard
from sida.stores import ObjectStore
from sida.stores.objects import fetch_object


def duplicates(digests: np.ndarray) -> list[tuple[int, int]]:
    """Return (image, the first one that it equals), by image, of uint8 [N, 16]; absent ones equal nothing."""
    _, firsts, groups = np.unique(digests.view(f"S{DIGEST_BYTES}")[:, 0], return_index=True, return_inverse=True)
    first = firsts[groups]
    repeated = np.flatnonzero((first != np.arange(len(digests))) & digests.any(axis=1))
    return list(zip(repeated.tolist(), first[repeated].tolist(), strict=True))


def without_dropped(
    conversion: Conversion,
    published: list[ShardRecord],
    readable: np.ndarray,
    dropped: np.ndarray,
    store: ObjectStore,
    put: Put,
    folder: Path,
) -> list[Shard]:
    """Return the shards, those with dropped images rewritten; ``readable``, ``dropped``: bool [N] over the source's images."""
    shards = []
    for number, one in enumerate(published):
        part = conversion.part(number)
        gone = dropped[part][readable[part]]
        if not gone.any():
            shards.append(one.shard)
        elif not gone.all():
            records = np.memmap(fetch_object(store, one.shard.object), conversion.layout, "r")
            path = folder / f"shard-{number:05d}.bin"
            records[~gone].tofile(path)
            shards.append(Shard(object=put(path, path.name), count=int((~gone).sum())))
            path.unlink()
    return [shard for shard in shards if shard.count]
