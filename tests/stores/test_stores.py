"""What both stores promise."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sida.errors import AlreadyExists, Corrupt, NotFound, UserError
from sida.layout import object_key
from sida.stores import ObjectRef, ObjectStore, fetch_object, open_store, put_object, read_address
from sida.stores.objects import HashingReader, verify_object
from sida.stores.s3 import S3Store
from tests.racing import racers

MIB = 1 << 20


def test_what_was_put_is_read_whole_in_parts_and_in_blocks(store: ObjectStore) -> None:
    content = os.urandom(3 * MIB)
    stat = store.put("a/b.bin", content)
    assert store.stat("a/b.bin") == stat and stat.size == len(content)
    assert store.read("a/b.bin") == content
    assert store.read("a/b.bin", 100, 50) == content[100:150] and store.read("a/b.bin", 0, 1) == content[:1]
    assert store.read("a/b.bin", len(content) - 5) == content[-5:]
    assert store.read("a/b.bin", len(content)) == b"" and store.read("a/b.bin", 5, 0) == b""
    assert b"".join(store.blocks("a/b.bin", MIB, stat.size)) == content[MIB:]


def test_what_is_larger_than_a_record_is_not_read_whole(store: ObjectStore) -> None:
    store.put("runs/r/run.json", b"x" * 11)
    assert store.read("runs/r/run.json", most=11) == store.read("runs/r/run.json", 0, 11, most=1) == b"x" * 11
    assert store.read("runs/r/run.json", 5, most=6) == b"x" * 6
    for offset, most in ((0, 10), (5, 5)):
        with pytest.raises(Corrupt, match=rf"runs/r/run.json is larger than {most} bytes, so it is no record"):
            store.read("runs/r/run.json", offset, most=most)


@pytest.mark.parametrize("size", [0, 1, 20 * MIB + 7])
def test_files_of_any_size_are_stored_unchanged(store: ObjectStore, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(min(size, MIB)) * (size // MIB) + os.urandom(size % MIB))
    with source.open("rb") as file:
        assert store.put("big", file).size == size
    assert b"".join(store.blocks("big", 0, size)) == source.read_bytes()


def test_put_replaces_and_takes_open_files_from_where_they_stand(store: ObjectStore) -> None:
    store.put("key", b"old and longer")
    file = io.BytesIO(b"..new")
    file.seek(2)
    store.put("key", file)
    assert store.read("key") == b"new"


def test_what_is_not_there_is_not_found_but_may_be_deleted(store: ObjectStore) -> None:
    store.put("folder/key", b"1")
    for missing in ("nothing", "folder", "folder/key/below"):
        assert not store.exists(missing)
        for use in (store.read, store.stat):
            with pytest.raises(NotFound, match=missing):
                use(missing)
    store.delete("nothing")
    store.delete("folder/key")
    assert not store.exists("folder/key")


def test_list_is_sorted_recursive_and_by_prefix(store: ObjectStore) -> None:
    for key in ("b", "a/2", "a/10", "a/c/d", "ab", "a-b"):
        store.put(key, b"1")
    assert store.list() == ["a-b", "a/10", "a/2", "a/c/d", "ab", "b"]
    assert store.list("a/") == ["a/10", "a/2", "a/c/d"]
    assert store.list("a/c") == ["a/c/d"]
    assert store.list("nothing/here") == []


@pytest.mark.slow
def test_a_list_of_more_than_a_page_is_whole(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"many/{number:05d}" for number in range(2100)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda key: store.put(key, b"1"), [*keys, "other/1"]))
    asked = []
    if isinstance(store, S3Store):
        request = store._request
        monkeypatch.setattr(store, "_request", lambda *args, **kw: (asked.append(args[0]), request(*args, **kw))[1])
    assert store.list("many/") == keys
    assert store.list() == [*keys, "other/1"]
    assert asked in ([], ["list_objects_v2"] * 6)  # S3 says at most 1,000 names at once: three pages each


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\0b", "a\nb", ".tmp/a"])
def test_keys_that_leave_the_store_are_refused(store: ObjectStore, key: str) -> None:
    for use in (store.read, store.stat, store.delete):
        with pytest.raises(UserError, match="not an object key"):
            use(key)
    with pytest.raises(UserError, match="not an object key"):
        store.put(key, b"1")


@pytest.mark.parametrize("key", ["with space", "a+b=c%20&d", "ümlaut/图", "#hash?query"])
def test_keys_with_unusual_characters_come_back_as_they_are(store: ObjectStore, key: str) -> None:
    store.put(key, b"1")
    assert store.list() == [key] and store.read(key) == b"1"
    assert read_address(store.address_of(key)) == b"1"


def test_put_if_absent_creates_once_and_never_overwrites(store: ObjectStore) -> None:
    store.put_if_absent("attempts/1.json", b"first")
    with pytest.raises(AlreadyExists, match=r"attempts/1\.json"):
        store.put_if_absent("attempts/1.json", b"second")
    assert store.read("attempts/1.json") == b"first"
    assert store.list() == ["attempts/1.json"]


def _create(address: str, content: bytes, start: float) -> bool:
    store = open_store(address)
    time.sleep(max(0.0, start - time.time()))
    try:
        store.put_if_absent("raced", content)
    except AlreadyExists:
        return False
    return True


def test_of_32_racing_creators_exactly_one_wins(address: str) -> None:
    with racers(32) as pool:
        start = time.time() + 0.3
        jobs = [pool.apply_async(_create, (address, str(n).encode() * 100, start)) for n in range(32)]
        won = [n for n, job in enumerate(jobs) if job.get(60)]
    assert len(won) == 1
    assert open_store(address).read("raced") == str(won[0]).encode() * 100


def test_of_racing_threads_exactly_one_wins(store: ObjectStore) -> None:
    def create(n: int) -> bool:
        try:
            store.put_if_absent("raced", str(n).encode())
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(create, range(16))) == 1


WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
from sida.stores import open_store
store = open_store(sys.argv[1])
class Slow:
    # 40 MiB, the last half of which never comes
    at = 0
    def tell(self): return self.at
    def seek(self, offset, whence=0): self.at = (40 << 20) if whence else offset; return self.at
    def read(self, size=-1):
        if self.at >= 20 << 20:
            print("half", flush=True)
            time.sleep(60)
        self.at += 1 << 20
        return b"x" * (1 << 20)
store.put("victim", Slow())
"""


def test_a_writer_killed_half_way_leaves_nothing_visible_and_the_old_object_whole(address: str) -> None:
    store = open_store(address)
    for old in (None, b"old"):
        if old:
            store.put("victim", old)
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, address], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"half\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        assert store.list() == (["victim"] if old else [])
        if old:
            assert store.read("victim") == old


# -- content-addressed objects


def test_objects_are_stored_once_under_their_digest(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    ref = put_object(store, path)
    assert ref == ObjectRef("weights.safetensors", 7, digest)
    assert ref.key == f"objects/{digest[:2]}/{digest}.safetensors" == object_key(digest, "x.safetensors")
    stat = store.stat(ref.key)
    assert put_object(store, b"weights", "weights.safetensors") == ref
    assert store.stat(ref.key) == stat
    verify_object(store, ref)


def test_fetched_objects_are_local_files_with_the_stored_bytes(store: ObjectStore) -> None:
    content = os.urandom(20 * MIB + 3)
    ref = put_object(store, content, "shard.bin")
    path = fetch_object(store, ref)
    assert path.read_bytes() == content
    assert fetch_object(store, ref) == path


def test_a_damaged_object_is_never_handed_out(store: ObjectStore) -> None:
    ref = put_object(store, b"right", "a.bin")
    store.put(ref.key, b"wrong")
    with pytest.raises(Corrupt, match=r"a\.bin"):
        fetch_object(store, ref)
    with pytest.raises(Corrupt, match=r"a\.bin"):
        verify_object(store, ref)


def test_a_truncated_object_is_never_handed_out_and_put_object_repairs_it(store: ObjectStore) -> None:
    ref = put_object(store, b"whole", "a.bin")
    store.put(ref.key, b"who")
    with pytest.raises(Corrupt):
        fetch_object(store, ref)
    put_object(store, b"whole", "a.bin")
    assert fetch_object(store, ref).read_bytes() == b"whole"


def test_fetching_a_missing_object_names_it(store: ObjectStore) -> None:
    ref = ObjectRef("lost.bin", 4, hashlib.sha256(b"lost").hexdigest())
    with pytest.raises(NotFound, match=ref.sha256):
        fetch_object(store, ref)


def test_a_file_that_changes_while_it_is_stored_is_not_published(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"later content")
    reader = HashingReader(path, hashlib.sha256(b"before").hexdigest())
    with reader, pytest.raises(UserError, match="growing changed while"):
        store.put("key", reader)  # type: ignore[arg-type]
    assert store.list() == []


def test_a_source_that_is_missing_is_the_users_error(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        put_object(store, tmp_path / "missing")
