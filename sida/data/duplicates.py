"""Leave duplicates out of shards that are published already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sida.data.convert import Conversion, Made, Put
from sida.manifests import Shard
from sida.stores import ObjectStore
from sida.stores.objects import fetch_object


def without(
    conversion: Conversion,
    made: list[Made],
    readable: np.ndarray,
    dropped: np.ndarray,
    store: ObjectStore,
    put: Put,
    folder: Path,
) -> list[Shard]:
    """Return the shards, those with dropped images rewritten; ``readable``, ``dropped``: bool [N] over the source's images."""
    shards = []
    for number, one in enumerate(made):
        part = conversion.part(number)
        gone = dropped[part][readable[part]]
        if not gone.any():
            shards.append(one.shard)
        elif not gone.all():
            records = np.memmap(fetch_object(store, one.shard.object), conversion.layout, "r")
            path = folder / one.shard.object.name
            records[~gone].tofile(path)
            shards.append(Shard(object=put(path, path.name), count=int((~gone).sum())))
            path.unlink()
    return [shard for shard in shards if shard.count]
