"""The cache's locks, without a server: what was hashed is given out, and nobody waits for another's file."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from sida.stores import cache
from sida.stores.cache import give_out, make_folders

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
