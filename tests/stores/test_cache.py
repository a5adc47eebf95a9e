"""The cache without a server: what was hashed is given out, nobody waits for another's file, and no bytes change unseen."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from sida.errors import Corrupt
from sida.stores import cache, objects, open_store
from sida.stores.cache import give_out, make_folders
from sida.stores.objects import fetch_object, intact, put_object

SECONDS = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folders(tmp_path)
    return tmp_path


def cached(folder: Path, content: bytes) -> tuple[Path, str]:
    digest = hashlib.sha256(content).hexdigest()
    path = folder / "objects" / f"{digest}.bin"
    path.write_bytes(content)
    return path, digest


class SlowHash:
    """Hashing that waits in the files that are named until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *slow: Path) -> None:
        self.slow, self.begun, self.go, self.count = slow, threading.Semaphore(0), threading.Event(), 0
        self._real = hashlib.file_digest
        monkeypatch.setattr(cache.hashlib, "file_digest", self._hash)

    def _hash(self, file: Any, name: str) -> Any:
        self.count += 1
        if Path(file.name) in self.slow:
            self.begun.release()
            assert self.go.wait(SECONDS)
        return self._real(file, name)


class Asking(threading.Thread):
    def __init__(self, folder: Path, path: Path, digest: str) -> None:
        super().__init__()
        self.given: bool | None = None
        self._arguments = folder, path, digest
        self.start()

    def run(self) -> None:
        self.given = give_out(*self._arguments)

    def answer(self) -> bool | None:
        self.join(SECONDS)
        return self.given


def test_a_file_that_is_being_hashed_holds_up_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = cached(folder, b"large" * 1000), cached(folder, b"small")
    hashing = SlowHash(monkeypatch, large[0])
    first = Asking(folder, *large)
    assert hashing.begun.acquire(timeout=SECONDS)
    assert Asking(folder, *small).answer() is True  # hashed too, meanwhile
    cache.make_room(folder, 10**6, 1)  # and nothing that is in use is evicted
    hashing.go.set()
    assert first.answer() is True and large[0].exists()


def test_two_who_want_the_same_file_both_get_it_and_the_next_need_not_hash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = cached(folder, b"wanted" * 1000)
    hashing = SlowHash(monkeypatch, path)
    two = [Asking(folder, path, digest) for _ in range(2)]
    for _ in two:
        assert hashing.begun.acquire(timeout=SECONDS)
    hashing.go.set()
    assert [one.answer() for one in two] == [True, True]
    assert hashing.count == 2
    assert give_out(folder, path, digest) and hashing.count == 2


def test_what_is_written_while_it_is_hashed_is_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = cached(folder, b"wanted")
    hashing = SlowHash(monkeypatch, path)
    asking = Asking(folder, path, digest)
    assert hashing.begun.acquire(timeout=SECONDS)
    path.write_bytes(b"hostil")
    hashing.go.set()
    assert asking.answer() is False and not path.exists()
    path.write_bytes(b"wanted")
    assert give_out(folder, path, digest)


def rewrite(path: Path, content: bytes) -> None:
    """Change a file's bytes, and keep its inode, size and times, as ``touch -d`` can; its time of change is the kernel's."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_a_cached_file_whose_bytes_changed_under_the_same_times_is_thrown_away(folder: Path) -> None:
    path, digest = cached(folder, b"wanted")
    assert give_out(folder, path, digest)
    rewrite(path, b"hostil")
    assert not give_out(folder, path, digest) and not path.exists()


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("size_from", [0, 1000])  # below it an object that this machine does not know is hashed anyway
def test_a_stored_object_whose_bytes_changed_under_the_same_times_is_not_intact_however_large(
    remembers: bool, size_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "UNKNOWN_BYTES", size_from)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    store = open_store(str(tmp_path / "store"))
    ref = put_object(store, b"wanted", "weights.bin")
    path = store.local_path(ref.key)
    assert path is not None
    an_hour_ago = path.stat().st_mtime_ns - 3600 * 10**9
    os.utime(path, ns=(an_hour_ago, an_hour_ago))  # when it was published
    etag = store.stat(ref.key).etag
    if remembers:
        fetch_object(store, ref)
    else:
        monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "another machine's"))
    rewrite(path, b"hostil")
    assert store.stat(ref.key).etag == etag
    assert not intact(store, ref, etag)
    with pytest.raises(Corrupt):
        fetch_object(store, ref)


def test_a_large_object_that_nobody_touched_is_intact_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "UNKNOWN_BYTES", 0)
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    ref = put_object(store, b"wanted", "weights.bin")
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "another machine's"))
    monkeypatch.setattr(objects, "verify_object", lambda *_: pytest.fail("it was read"))
    assert intact(store, ref, store.stat(ref.key).etag)
