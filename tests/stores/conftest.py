"""Every store test runs on a folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from sida.stores import ObjectStore, open_store
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY


@pytest.fixture
def s3(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty prefix; the environment holds endpoint, credentials and a cache of its own."""
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def store(address: str) -> ObjectStore:
    return open_store(address)
