"""What is the folder store's own."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sida.addresses import redact
from sida.errors import AlreadyExists, Corrupt, NotFound, SidaError, StoreError, StoreUnusable, UserError
from sida.stores import fetch_object, open_own_store, open_store, put_object
from sida.stores.folder import FolderStore, _sweep


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    return FolderStore(tmp_path / "store")


def test_a_stored_object_is_a_plain_file_and_fetching_copies_nothing(store: FolderStore) -> None:
    ref = put_object(store, b"content", "a.bin")
    assert fetch_object(store, ref) == store.root / ref.key == store.local_path(ref.key)


def test_an_object_is_hashed_once_and_again_after_it_was_written_even_with_its_time_set_back(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put_object(store, b"content", "a.bin")
    hashed: list[str] = []
    monkeypatch.setattr("sida.stores.objects.verify_object", lambda store, ref: hashed.append(ref.name))
    for _ in range(3):
        path = fetch_object(store, ref)
    assert hashed == ["a.bin"]
    monkeypatch.undo()
    before = path.stat()
    path.write_bytes(b"altered")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SidaError, match="damaged"):
        fetch_object(store, ref)


def test_fetching_works_where_the_cache_cannot_be_written(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "file"))
    assert fetch_object(store, put_object(store, b"content")).read_bytes() == b"content"


def test_a_sparse_record_of_gigabytes_is_refused_by_its_size(store: FolderStore) -> None:
    for key in ("steps/score/ab/1.json", "runs/r/steps/score.json"):
        store.put(key, b"{}")
        os.truncate(store.root / key, 9 << 30)
        began = time.monotonic()
        with pytest.raises(Corrupt, match="is larger than 67,108,864 bytes, so it is no record"):
            store.read(key)
        assert time.monotonic() - began < 1


def test_opening_and_listing_an_absent_folder_makes_nothing(store: FolderStore) -> None:
    assert store.list() == []
    with pytest.raises(NotFound):
        store.read("key")
    assert not store.root.exists()


def test_a_moved_store_keeps_its_etags(store: FolderStore, tmp_path: Path) -> None:
    store.put("key", b"1")
    shutil.copytree(store.root, tmp_path / "moved")
    assert FolderStore(tmp_path / "moved").stat("key") == store.stat("key")


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreUnusable, match=f"{tmp_path}/file is not a folder: set SIDA_STORE"):
            FolderStore(root).put("key", b"1")


def test_a_key_below_or_above_another_object_is_refused(store: FolderStore) -> None:
    store.put("a", b"1")
    store.put("c/d", b"1")
    for key in ("a/b", "c"):
        with pytest.raises(StoreError, match=key):
            store.put(key, b"1")
        with pytest.raises(StoreError, match=key) as caught:
            store.put_if_absent(key, b"1")
        assert not isinstance(caught.value, AlreadyExists)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, conditional: bool
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    store.put("key", b"old")
    monkeypatch.setattr(os, "fsync", full)
    write, key = (store.put_if_absent, "other") if conditional else (store.put, "key")
    with pytest.raises(UserError, match=r"disk full while writing file://.*: free space or set SIDA_STORE") as caught:
        write(key, b"new")
    assert "\n" not in str(caught.value)
    assert store.list() == ["key"] and store.read("key") == b"old"
    assert list((store.root / ".tmp").iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting needs root")
def test_on_a_really_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(root)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        store = FolderStore(root)
        store.put("small", b"1")
        with pytest.raises(UserError, match="disk full"):
            store.put("large", b"x" * (2 << 20))
        assert store.list() == ["small"] and list((root / ".tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", str(root)], check=True)


UNPRIVILEGED = """
import os, sys
from sida.stores.folder import FolderStore, _sweep
from sida.errors import StoreUnusable
from pathlib import Path
if os.geteuid() == 0:
    os.setuid(65534)
try:
    FolderStore(Path(sys.argv[1])).put("key", b"1")
except StoreUnusable as error:
    print(error)
"""


def test_a_folder_that_may_not_be_written_is_named_with_what_to_do() -> None:
    # Not under tmp_path, into which another user may not even look.
    folder = Path(f"/tmp/sida-test-{os.getpid()}")
    folder.mkdir(mode=0o555)
    try:
        done = subprocess.run([sys.executable, "-c", UNPRIVILEGED, str(folder)], capture_output=True, text=True)
    finally:
        folder.rmdir()
    assert f"{folder} cannot be written (Permission denied): change its permissions or set SIDA_STORE" in done.stdout


def test_what_killed_writers_left_is_swept_and_what_may_live_is_not(store: FolderStore) -> None:
    store.put("key", b"1")
    folder, host = store.root / ".tmp", os.uname().nodename
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    ages = {
        f"{host}-{gone.pid}-a": 1000.0,
        f"{host}-{gone.pid}-young": 10.0,
        f"{host}-{os.getpid()}-b": 1000.0,
        "other-host-7-c": 1000.0,
        "other-host-7-d": 100_000.0,
    }
    for name, age in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    FolderStore(store.root).put("key", b"2")
    left = {path.name.rpartition("-")[2] for path in folder.iterdir()}
    assert left == {"young", "b", "c"}


def test_addresses_of_folders_are_taken_literally(tmp_path: Path) -> None:
    odd = tmp_path / "a b%20#?"
    store = open_store(f"file://{odd}")
    store.put("key", b"1")
    assert (odd / "key").exists() and store.address == f"file://{odd}"
    assert open_store(str(odd)).read("key") == b"1"


@pytest.mark.parametrize("address", ["file://relative/path", "http://host/x", "", "s3:///x", "s3://u:p@bucket/x"])
def test_addresses_that_cannot_be_stores_are_refused_without_repeating_secrets(address: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(address)
    assert "u:p" not in str(caught.value)


def test_printed_addresses_hold_no_user_password_query_or_fragment() -> None:
    assert redact("https://me:secret@host:9000/a/b?X-Amz-Signature=1#f") == "https://host:9000/a/b"
    assert redact("s3://key:secret@bucket/prefix") == "s3://bucket/prefix"
    assert redact("file:///data/what?") == "file:///data/what?"
    assert redact("http://[broken?secret") == "http://..."


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders_is_used_without(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put_if_absent("a/b", b"1")
    assert store.read("a/b") == b"1"


def test_every_new_folder_is_synced_into_the_one_above(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a/b", b"1")
    synced: set[Path] = set()
    monkeypatch.setattr("sida.stores.folder._sync_folder", synced.add)
    store.put("a/c/d/e", b"1")
    assert synced == {store.root / "a", store.root / "a/c", store.root / "a/c/d"}


def test_storing_what_is_there_keeps_its_etag_and_counts_as_written_now(store: FolderStore) -> None:
    ref = put_object(store, b"content", "a.bin")
    before = store.stat(ref.key)
    time.sleep(0.05)
    assert put_object(store, b"content", "a.bin") == ref
    after = store.stat(ref.key)
    assert (after.etag, after.size) == (before.etag, before.size) and after.written != before.written


def test_an_object_whose_bytes_changed_without_its_size_and_times_is_replaced(store: FolderStore) -> None:
    ref = put_object(store, b"content", "a.bin")
    path = store.root / ref.key
    before = path.stat()
    path.write_bytes(b"altered")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    put_object(store, b"content", "a.bin")
    assert path.read_bytes() == b"content"


# -- folders of something else


@pytest.mark.parametrize("address", ["/", "/.", "/tmp/..", "file:///", "/etc", "/home/..", "/usr", "/tmp"])
def test_a_folder_of_the_system_s_is_never_a_store(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "_walk", lambda *_: pytest.fail("walked"))
    with pytest.raises(StoreUnusable, match=r"is no store of sida's: it holds .*: give the store's own folder"):
        open_own_store(address)


def test_a_home_is_none_whatever_it_holds_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for name in ("objects", ".tmp", "steps", ".ssh"):
        (tmp_path / "me" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("me")
    for folder in ("me", ".", "link"):
        with pytest.raises(StoreUnusable, match="is no store of sida's"):
            open_own_store(str(tmp_path / folder))


def test_what_has_none_of_a_store_s_folders_is_none_and_an_empty_one_may_become_one(tmp_path: Path) -> None:
    store = open_own_store(str(tmp_path / "absent"))
    store.put("pins/a.json", b"{}")
    assert open_own_store(str(tmp_path / "absent")).list() == ["pins/a.json"]
    fresh = tmp_path / "disk"
    (fresh / "lost+found").mkdir(parents=True)
    (fresh / ".DS_Store").touch()
    assert open_own_store(str(fresh)).list("steps/") == []
    (fresh / "data").mkdir()
    (fresh / "thesis.tex").touch()
    with pytest.raises(StoreUnusable, match=r"it holds thesis\.tex"):
        open_own_store(str(fresh))
    (fresh / "objects").mkdir()
    assert open_own_store(str(fresh))  # a note of the user's beside a store of ours


def test_a_link_that_leads_nowhere_is_one_line_for_the_user_to_mend(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put("pins/a.json", b"{}")
    (tmp_path / "store" / "pins" / "b.json").symlink_to("gone")
    with pytest.raises(StoreUnusable, match=r"pins/b\.json is a link that leads nowhere") as caught:
        store.list()
    assert caught.value.exit_code == 2
    (tmp_path / "other").symlink_to("gone")
    with pytest.raises(StoreUnusable, match="leads nowhere"):
        open_own_store(str(tmp_path / "other"))


@pytest.mark.parametrize("key", ["runs/one/steps/score.json", "objects/ab", "data/x"])
def test_a_pipe_in_a_store_is_named_and_nobody_waits_for_it(store: FolderStore, key: str) -> None:
    store.put("steps/score/a/1.json", b"{}")
    path = store.root / key
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    for look in (store.list, lambda: store.read(key), lambda: list(store.blocks(key, 0, 1))):
        with pytest.raises(StoreUnusable, match=f"{key} is a pipe, socket or device, not a file: remove it"):
            look()


def test_folders_inside_each_other_without_end_are_one_line(store: FolderStore) -> None:
    store.put("steps/score/a/1.json", b"{}")
    (store.root / "data" / "/".join("d" * 500)).mkdir(parents=True)
    with pytest.raises(StoreUnusable, match="folders more than 100 deep, which no store does: remove them"):
        store.list()


def test_a_folder_among_the_temporary_files_keeps_nobody_from_writing(store: FolderStore) -> None:
    strange = store.root / ".tmp" / "lost+found"
    strange.mkdir(parents=True)
    os.utime(strange, (0, 0))
    store.put("steps/score/a/1.json", b"{}")
    assert store.list() == ["steps/score/a/1.json"] and strange.is_dir()


@pytest.mark.parametrize("pid", ["²", "٣", "9" * 400, "2147483648"])
def test_a_temporary_file_whose_name_holds_no_pid_disturbs_nobody(store: FolderStore, pid: str) -> None:
    store.put("key", b"x")
    left = store.root / ".tmp" / f"{socket.gethostname()}-{pid[:100]}-x"
    left.parent.mkdir(exist_ok=True)
    left.touch()
    _sweep(left.parent)
    assert left.exists() and FolderStore(store.root).read("key") == b"x"
