"""JSON of others: its size and its number of values are looked at before it is parsed."""

from __future__ import annotations

import json
from typing import Any

from sida.foreign.limits import Budget

TEXT_BYTES = 256 * 2**20  # ImageNet's dataset.json has 60 million
VALUES = 10_000_000


def parse_json(content: bytes) -> Any:
    """Return the value of JSON. Raises ValueError for what is no JSON, too large, or nested too deep."""
    if len(content) > TEXT_BYTES:
        raise ValueError(f"it has {len(content):,} bytes, more than {TEXT_BYTES:,}")
    Budget(len(content), VALUES).spend(sum(map(content.count, (b",", b"[", b"{"))))
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
