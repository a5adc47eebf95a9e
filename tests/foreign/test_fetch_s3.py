"""Fetching what a recipe names from a real S3 server, and the limit of the cache that all fetched files and objects share."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sida.errors import UserError
from sida.foreign.fetch import fetch_file, recorded_sha256
from sida.stores import open_store, put_object
from sida.stores.objects import fetch_object
from sida.stores.s3 import S3Store
from tests.conftest import ROOT
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

MIB = 1 << 20
FETCH = """
import os, sys
from sida.foreign.fetch import fetch_file
for address, sha256 in zip(sys.argv[1::2], sys.argv[2::2]):
    if (pid := os.fork()) == 0:  # each by a process of its own, which then lets go of the file
        print(fetch_file(address, "teacher", sha256)[0], flush=True)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
"""
DIE = """
import os, signal
from sida.stores.s3 import S3Store
blocks = S3Store.blocks
def die(*arguments):
    for number, block in enumerate(blocks(*arguments)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield block
S3Store.blocks = die
"""


@pytest.fixture(autouse=True)
def bucket(s3_endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty prefix; store, cache and events of this test's own."""
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("SIDA_EVENTS", str(place / "events"))
    return f"s3://{BUCKET}/{place.name}"


def stored(bucket: str, name: str, content: bytes) -> tuple[str, str]:
    """Address and sha256 of an object put there."""
    open_store(bucket).put(name, content)
    return f"{bucket}/{name}", hashlib.sha256(content).hexdigest()


def test_a_mirror_may_be_a_bucket(bucket: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(MIB)
    stored(bucket, "mirror/no-such-host.invalid/edm/net.pkl", content)
    monkeypatch.setenv("SIDA_MIRROR", f"{bucket}/mirror")
    address = "https://no-such-host.invalid/edm/net.pkl"
    path, found = fetch_file(address, "teacher")
    assert path.read_bytes() == content and recorded_sha256(address) == found
    assert fetch_file(address, "teacher", found) == (path, found)


def fetched(*files: tuple[str, str], before: str = "") -> subprocess.CompletedProcess[str]:
    """One after the other, each by a process that then ends."""
    command = [sys.executable, "-c", before + FETCH, *(text for file in files for text in file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_pinned_object_is_fetched_once_and_an_unpinned_one_is_recorded_and_held_to(bucket: str, place: Path) -> None:
    content = os.urandom(3 * MIB)
    address, sha256 = stored(bucket, "net.pkl", content)
    path, found = fetch_file(address, "teacher", step="fetch_teacher")
    assert (path.read_bytes(), path.name, found) == (content, "net.pkl", sha256)
    assert recorded_sha256(address) == sha256 and "NOT PINNED" in (place / "events").read_text()
    open_store(bucket).put("net.pkl", b"another")
    assert fetch_file(address, "teacher", sha256) == (path, sha256)  # from the cache
    path.unlink()
    with pytest.raises(UserError, match=f"expected is {sha256}"):
        fetch_file(address, "teacher")


def test_what_a_killed_download_left_is_gone_on_from_unless_the_object_changed(bucket: str, place: Path) -> None:
    content = os.urandom(32 * MIB)
    address, sha256 = stored(bucket, "net.pkl", content)
    assert fetched((address, sha256), before=DIE).returncode == 256 - signal.SIGKILL
    (part,) = (place / "cache" / "fetched").glob("*.part")
    left, note = part.stat().st_size, part.with_name(f"{part.name}.json").read_text()
    assert 0 < left < len(content)
    asked: list[int] = []

    def spy(self: S3Store, key: str, offset: int, size: int) -> Iterator[bytes]:
        asked.append(offset)
        return blocks(self, key, offset, size)

    blocks = S3Store.blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Store, "blocks", spy)
        path, _ = fetch_file(address, "teacher", sha256)
        assert path.read_bytes() == content and asked == [left]
        part.write_bytes(content[:left])
        part.with_name(f"{part.name}.json").write_text(note)
        address, sha256 = stored(bucket, "net.pkl", content[::-1])
        assert fetch_file(address, "teacher", sha256)[0].read_bytes() == content[::-1]
        assert asked == [left, 0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("object", "no such object: correct the address"), ("bucket", "bucket"), ("key", "AWS_ACCESS_KEY_ID")],
)
def test_an_object_that_cannot_be_read_is_named(
    bucket: str, fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_STORE", "file:///nowhere/store")
    address = f"{bucket}/absent.pkl" if fault != "bucket" else "s3://no-such-bucket/net.pkl"
    if fault == "key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(UserError, match=said) as caught:
        fetch_file(address, "teacher", "0" * 64)
    assert len(str(caught.value).splitlines()) == 1 and "wrong-secret" not in str(caught.value)


def test_fetched_files_and_objects_share_the_limit_of_the_cache(
    bucket: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_CACHE_BYTES", str(3 * MIB))
    files = [stored(bucket, f"{number} x.bin", bytes([number]) * MIB) for number in range(4)]
    ref = put_object(open_store(bucket), b"o" * MIB, "object.bin")
    cache = place / "cache"
    fetch_object(open_store(bucket), ref)
    for users in (cache / "users").iterdir():
        users.write_text("")  # as if the process that used the object had ended
    done = fetched(*(files[number] for number in (0, 1, 2, 0)))  # at 2 the object goes; then 1 was used longest ago
    assert done.returncode == 0, done.stderr
    assert not list(cache.glob("objects/*"))
    fetch_object(open_store(bucket), ref)  # ours, and in use from now on
    held = {path.parent.name for path in cache.glob("fetched/*/*")}
    assert held == {files[0][1], files[2][1]}
    for number in (1, 3):
        path, _ = fetch_file(files[number][0], "teacher", files[number][1])
        assert path.exists()
    assert {path.parent.name for path in cache.glob("fetched/*/*")} == {files[1][1], files[3][1]}
    assert len(list(cache.glob("objects/*"))) == 1  # in use, as are the two: only what nobody uses goes
    fetch_file(files[0][0], "teacher", files[0][1])
    assert len(list(cache.glob("fetched/*/*"))) == 3  # over the limit rather than taken away from us


def test_an_object_larger_than_such_a_file_can_be_is_not_fetched(
    bucket: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sha256 = stored(bucket, "net.pkl", b"x" * 2000)
    monkeypatch.setattr("sida.foreign.fetch.FILE_BYTES", 1000)
    with pytest.raises(UserError, match="has 2,000 bytes, more than"):
        fetch_file(address, "teacher", sha256)
    assert not list((place / "cache" / "fetched").glob("*.part"))
