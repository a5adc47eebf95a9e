"""The image, built once, and an S3 store for containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container import oci
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs


@pytest.fixture(scope="session")
def image() -> Iterator[oci.Image]:
    if lacking := oci.missing():
        message = f"containers need {', '.join(lacking)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    oci.build()
    with oci.mounted() as image:
        yield image


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that names a SeaweedFS store, as a profile gives it to pods."""
    folder: Path = tmp_path_factory.mktemp("seaweedfs") / "data"
    with seaweedfs(folder) as endpoint:
        yield {
            "SIDA_STORE": f"s3://{BUCKET}/store",
            "SIDA_S3_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
