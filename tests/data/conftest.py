"""Data tests that touch a store run on a folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.conftest import address, s3

__all__ = ["address", "s3"]


@pytest.fixture
def place_on(place: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``place``, with the store on either kind of store."""
    monkeypatch.setenv("SIDA_STORE", address)
    return place
