"""The tracking server's image, started as the manifests start it: a client outside, artifacts on S3, backup and restore."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import urllib3

from tests.container.oci import Image
from tests.container.test_image import output
from tests.manifests.test_docs import commands
from tests.manifests.test_servers import container
from tests.stores.server import BUCKET, _free_ports

pytestmark = pytest.mark.container

Execute = Callable[..., bytes]


@contextmanager
def server(image: Image, store: dict[str, str], volume: Path) -> Iterator[tuple[str, Execute]]:
    """The container of the Deployment on its volume, once it is ready: its address, and what runs a program in it."""
    given, port = container("Deployment", "mlflow"), _free_ports()
    values = {"ARTIFACTS": f"s3://{BUCKET}/mlflow", "MLFLOW_S3_ENDPOINT_URL": store["SIDA_S3_ENDPOINT"]} | store
    env = {item["name"]: item.get("value") or values[item["name"]] for item in given["env"]}
    words = [*given["command"], *given["args"]]
    words = [re.sub(r"\$\((\w+)\)", lambda name: env[name[1]], word).replace("=5000", f"={port}") for word in words]
    words = ["--host=127.0.0.1" if word.startswith("--host=") else word for word in words]
    address, began = f"http://localhost:{port}", time.monotonic()
    volume.mkdir(exist_ok=True)
    os.chown(volume, 10001, 10001)  # fsGroup
    log = volume.with_suffix(".log")
    with image.serving(*words, env=env, log=log, volumes={volume: "/data"}) as execute:
        path = given["readinessProbe"]["httpGet"]["path"]
        while status(address, path, "10.244.1.7:5000") != 200:  # as the kubelet asks
            assert time.monotonic() < began + 300, log.read_text()[-3000:]
            time.sleep(0.2)
        print(f"mlflow: ready after {time.monotonic() - began:.1f} s")
        yield address, execute
        began = time.monotonic()
    assert time.monotonic() < began + 25, "it does not end on SIGTERM: Kubernetes would wait 30 s and kill it"


def status(address: str, path: str, host: str) -> int:
    """Of an answer to a request by the name ``host``; 0 where nobody answers."""
    with urllib3.PoolManager(retries=False, timeout=10) as pool:
        try:
            return pool.request("GET", address + path, headers={"Host": host}).status
        except urllib3.exceptions.HTTPError:
            return 0


def test_postgresql_s_driver_and_the_client_for_s3_can_be_imported(mlflow_image: Image) -> None:
    code = "import psycopg, boto3, mlflow; print(psycopg.pq.__impl__)"
    assert output(mlflow_image.run("python3", "-c", code)).strip() == "binary"


def test_the_server_logs_what_a_client_outside_sends_and_refuses_other_hosts(
    mlflow_image: Image, store: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "grid.txt").write_text("pictures")
    with server(mlflow_image, store, tmp_path / "data") as (address, execute):
        client = mlflow.MlflowClient(address)
        run = client.create_run(client.create_experiment("digits")).info.run_id
        client.log_param(run, "alpha", 1.2)
        client.log_metric(run, "fid", 5.5, step=1000)
        client.log_artifact(run, str(tmp_path / "grid.txt"))  # through the server: the client has no keys
        client.set_terminated(run)

        found = client.get_run(run)
        assert (found.info.status, found.data.params, found.data.metrics) == (
            "FINISHED",
            {"alpha": "1.2"},
            {"fid": 5.5},
        )
        assert found.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert Path(client.download_artifacts(run, "grid.txt", str(tmp_path))).read_text() == "pictures"

        search = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert status(address, search, "mlflow.sida:5000") == 200
        assert status(address, search, "attacker.example:5000") == 403
        assert execute("id", "-u") == b"10001\n"


def test_the_documented_commands_save_and_restore_the_database(
    mlflow_image: Image, store: dict[str, str], tmp_path: Path
) -> None:
    lines = [
        line.partition(" -- ")[2]
        for page, line in commands("kubectl")
        if page == "backup" and "deployment/mlflow -- " in line
    ]
    copy, fetch, restore = (shlex.split(re.sub(r" [<>]mlflow.db$", "", line)) for line in lines)
    with server(mlflow_image, store, tmp_path / "data") as (address, execute):
        client = mlflow.MlflowClient(address)
        client.create_experiment("saved")
        execute(*copy)
        saved = execute(*fetch)
        client.create_experiment("lost")
        execute(*restore, stdin=saved)
    with server(mlflow_image, store, tmp_path / "data") as (address, execute):
        names = {found.name for found in mlflow.MlflowClient(address).search_experiments()}
        assert names == {"Default", "saved"}
        assert execute("sh", "-c", 'mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI" 2>&1').endswith(
            b"Updating database tables\n"
        )
