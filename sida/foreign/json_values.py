"""JSON of others: its size and its number of values are looked at before it is parsed."""

from __future__ import annotations

import json
from typing import Any

from sida.foreign.limits import DEPTH, Budget

TEXT_BYTES = 256 * 2**20  # ImageNet's dataset.json has 60 million
VALUES = 10_000_000


def parse_json(content: bytes) -> Any:
    """Return the value of JSON. Raises ValueError for what is no JSON, too large, or nested too deep."""
    if len(content) > TEXT_BYTES:
        raise ValueError(f"it has {len(content):,} bytes, more than {TEXT_BYTES:,}")
    Budget(len(content), VALUES).spend(sum(map(content.count, (b",", b"[", b"{"))))
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        parts = (part for item in level for part in (item.values() if isinstance(item, dict) else item))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEPTH} deep")
