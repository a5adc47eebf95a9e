"""A real S3 server behind a proxy that spoils answers: nothing lost, nothing half-visible, nothing taken twice."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sida import patience
from sida.errors import AlreadyExists, StoreError
from sida.stores import fetch_object, open_store, put_object, s3_client
from sida.stores import s3 as s3_module
from sida.stores.lease import acquire
from sida.stores.s3 import S3Store
from tests.stores.faults import FAULTS, Proxy, spoiling
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs, weed

MIB = 1 << 20


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The environment points at the proxy; waits are tenths of seconds."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(s3_client, "READ_SECONDS", 1.0)
    with spoiling(s3_endpoint) as spoiler:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", spoiler.endpoint)
        yield spoiler


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_of_any_kind_costs_a_retry_and_nothing_else(s3: str, proxy: Proxy, fault: str) -> None:
    store = open_store(s3)
    content = os.urandom(300_000)
    store.put("before", b"1")
    for use in ("put", "read", "stat", "list", "delete"):
        proxy.plan = [fault]
        if use == "put":
            store.put("key", content)
        elif use == "read":
            assert store.read("key") == content
        elif use == "stat":
            assert store.stat("key").size == len(content)
        elif use == "list":
            assert list(store.list()) == ["before", "key"]
        else:
            store.delete("key")
            assert not store.exists("key")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_conditional_creation_through_a_fault_is_won_once(s3: str, proxy: Proxy, fault: str) -> None:
    store = open_store(s3)
    store.put_if_absent("warm", b"1")
    proxy.plan, proxy.only = [fault], "PUT"
    store.put_if_absent("key", b"mine")
    with pytest.raises(AlreadyExists):
        store.put_if_absent("key", b"other")
    assert store.read("key") == b"mine"


@pytest.mark.parametrize(
    "fault", ["500", "truncate", "close", "close after", pytest.param("hang", marks=pytest.mark.slow)]
)
def test_a_fault_that_stays_ends_in_one_line_with_the_old_object_whole(s3: str, proxy: Proxy, fault: str) -> None:
    store = open_store(s3)
    store.put("key", b"old")
    proxy.plan = [fault] * 200
    started = time.monotonic()
    if fault == "truncate":  # the answer of a put has no body to cut
        with pytest.raises(StoreError) as caught:
            store.read("key")
    else:
        with pytest.raises(StoreError) as caught:
            store.put("key", b"new")
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - started < 60
    proxy.plan = []
    assert store.read("key") in ((b"old", b"new") if fault == "close after" else (b"old",))


def test_a_multipart_upload_and_a_parallel_download_survive_many_faults(
    s3: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3_client, "READ_SECONDS", 30.0)  # nothing hangs here
    store = open_store(s3)
    assert isinstance(store, S3Store)
    (tmp_path / "big.bin").write_bytes(content := os.urandom(12 * MIB))
    proxy.plan, proxy.only = ["500", "", "close", "", "500"], "PUT"
    ref = put_object(store, tmp_path / "big.bin")
    proxy.plan, proxy.only = ["truncate", "", "500", "close"], "GET"
    assert fetch_object(store, ref).read_bytes() == content
    proxy.plan, proxy.only = ["", "close after"], "POST"  # the upload is completed, and then unknown
    store.put("again", io.BytesIO(content))
    assert not proxy.plan and store.read("again") == content


def test_a_lease_is_held_by_one_through_faults(s3: str, proxy: Proxy) -> None:
    store = open_store(s3)
    with acquire(store, "warm"):
        pass
    for fault in FAULTS:
        proxy.plan = [fault, "", fault]
        with acquire(store, f"key-{fault.replace(' ', '-')}") as lease:
            lease.check()


WRITE = """
import sys
from sida.errors import SidaError
from sida.stores import open_store
store = open_store(sys.argv[1])
for n in range(100_000):
    try:
        store.put(f"many/{n:06d}", str(n).encode() * 1000)
    except SidaError:
        break
    print(n, flush=True)
"""


@pytest.mark.slow
def test_a_server_killed_while_it_is_written_to_has_everything_that_it_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weed() is None:
        pytest.skip("no S3 server here")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    address = f"s3://{BUCKET}/killed"
    with seaweedfs(tmp_path / "data") as endpoint:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
        writer = subprocess.Popen([sys.executable, "-c", WRITE, address], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        done = [int(writer.stdout.readline()) for _ in range(30)]
    # leaving the block kills the server with SIGKILL, in the middle of the writer's work
    done += [int(line) for line in writer.stdout if line.strip()]
    writer.stdout.close()
    writer.wait(120)
    with seaweedfs(tmp_path / "data") as endpoint:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
        store = open_store(address)
        for n in done:
            assert store.read(f"many/{n:06d}") == str(n).encode() * 1000
        for key in store.list("many/"):  # and nothing half-written is visible
            assert store.read(key) == str(int(key[-6:])).encode() * 1000


def test_a_truncated_answer_is_never_taken_for_the_object(s3: str, proxy: Proxy) -> None:
    store = open_store(s3)
    store.put("key", b"x" * 100_000)
    proxy.plan, proxy.only = ["truncate"] * 3, "GET"
    assert store.read("key") == b"x" * 100_000
