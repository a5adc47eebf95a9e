"""The images, each built once, and an S3 store for containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.container import oci
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs


@pytest.fixture(scope="session")
def built() -> Iterator[Callable[[str], oci.Image]]:
    """An image by its name in scripts/image.py, built when first asked for."""
    if lacking := oci.missing():
        message = f"containers need {', '.join(lacking)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(oci.mounted(oci.build(name))))


@pytest.fixture(scope="session")
def image(built: Callable[[str], oci.Image]) -> oci.Image:
    return built("cpu")


@pytest.fixture(scope="session")
def mlflow_image(built: Callable[[str], oci.Image]) -> oci.Image:
    return built("mlflow")


@pytest.fixture(params=["cpu", "mlflow"])
def each(request: pytest.FixtureRequest, built: Callable[[str], oci.Image]) -> tuple[str, oci.Image]:
    return request.param, built(request.param)


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
