"""``gc`` removes what no run needs, and nothing else, on both stores."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from sida import layout
from sida.errors import StoreError, StoreUnusable, UserError
from sida.manifests import About, Manifest, ReportResult
from sida.records import Input, StepCall, to_json
from sida.steps import garbage
from sida.steps.garbage import find_garbage, remove_garbage
from sida.steps.recipes import forget_schedule, submit_recipe
from sida.stores import ObjectRef, ObjectStore, open_store, put_object
from sida.stores.folder import FolderStore
from sida.stores.lease import acquire

KEY = hashlib.sha256(b"key").hexdigest()


def manifest(number: int, weights: str, also: str = "0" * 64) -> bytes:
    """An attempt that names these two objects."""
    about = About(
        step="distill",
        key=KEY,
        attempt=number,
        created="2026-11-29T00:00:00+00:00",
        seconds=1.5,
        store="",
        etags={},
        code="",
        inputs={},
        parameters={},
        machine={"name": "\u00e9"},
    )
    return Manifest(result=ReportResult(run=also, page=ObjectRef("a.bin", 1, weights)), about=about).to_json()


def call(run: str, manifest: str = "", recipe: str = "x", **inputs: str) -> bytes:
    """A step's call that made this result from these."""
    return to_json(
        StepCall(
            run=run,
            step="distill",
            version=1,
            recipe=recipe,
            inputs={name: Input(address=address, digest="0" * 64) for name, address in inputs.items()},
            parameters={},
            image="",
            store="",
            started="2026-11-29T00:00:00+00:00",
            manifest=manifest,
        )
    )


class Filled:
    """A store with two attempts of one step, a run that names the first, a finished and an unfinished job."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.old = self.put(b"old result")
        self.new = self.put(b"new result")
        self.third = self.put(b"third result")
        self.leaf = self.put(b"named by an object")
        self.list = self.put(json.dumps([self.leaf]).encode(), "list.json")
        self.checkpoint = self.put(b"checkpoint")
        self.running = self.put(b"checkpoint of an unfinished job")
        self.orphan = self.put(b"orphan" * 1000)
        folder = f"steps/distill/{KEY}"
        for number, digest in enumerate((self.old, self.new, self.third), 1):
            store.put_if_absent(f"{folder}/{number}.json", manifest(number, digest, self.list))
            store.put(f"jobs/distill/{KEY}/{number}/spec.json", b"{}")
        store.put(f"{folder}/latest", b"3")
        store.put(f"jobs/distill/{KEY}/3/checkpoints/9.json", json.dumps(self.checkpoint).encode())
        store.put(f"jobs/distill/{KEY}/4/checkpoints/9.json", json.dumps(self.running).encode())
        self.first = store.address_of(f"{folder}/1.json")
        store.put("runs/one/steps/distill.json", call("one", self.first))

    def put(self, content: bytes, name: str = "a.bin") -> str:
        return put_object(self.store, content, name).sha256

    def left(self) -> set[str]:
        return {key.rpartition("/")[2][:64] for key in self.store.list("objects/")}


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "GRACE_SECONDS", 0.0)


@pytest.fixture(params=["folder", "s3"])
def filled(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filled:
    if request.param == "folder":
        return Filled(open_store(str(tmp_path / "store")))
    from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

    monkeypatch.setenv("SIDA_S3_ENDPOINT", request.getfixturevalue("s3_endpoint"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return Filled(open_store(f"s3://{BUCKET}/{tmp_path.name}"))


def test_a_dry_run_names_what_would_go_and_changes_nothing(filled: Filled) -> None:
    before = filled.store.list()
    found = find_garbage(filled.store)
    assert found.attempts == [f"steps/distill/{KEY}/2.json"]
    assert found.jobs == [f"jobs/distill/{KEY}/2/spec.json", f"jobs/distill/{KEY}/3/checkpoints/9.json"]
    assert {key.rpartition("/")[2][:64] for key in found.objects} == {filled.new, filled.checkpoint, filled.orphan}
    assert found.object_bytes == len(b"new result") + len(b"checkpoint") + 6000
    assert filled.store.list() == before


def test_parts_of_checkpoints_stay_while_the_job_is_unfinished_and_go_with_it(filled: Filled) -> None:
    told = {n: filled.put(f"a part that attempt {n} told of".encode()) for n in (3, 4)}
    named = filled.put(b"a part that a checkpoint names")
    keys = {n: f"jobs/distill/{KEY}/{n}/{layout.checkpoint_part_name(9, n, 1)}" for n in told}
    for n, digest in told.items():
        filled.store.put(keys[n], json.dumps({"object": {"sha256": digest}}).encode())
    record = {"object": {"sha256": filled.running}, "parts": [{"sha256": named}]}
    filled.store.put(f"jobs/distill/{KEY}/4/checkpoints/9.json", json.dumps(record).encode())
    remove_garbage(filled.store)
    assert {told[4], named, filled.running} <= filled.left() and told[3] not in filled.left()
    assert filled.store.exists(keys[4]) and not filled.store.exists(keys[3])


def test_what_is_removed_is_what_the_dry_run_named_and_the_second_time_there_is_nothing(filled: Filled) -> None:
    before, found = set(filled.store.list()), find_garbage(filled.store)
    assert remove_garbage(filled.store) == found
    assert {key for key in before if not key.startswith("leases/")} - set(filled.store.list()) == set(found.all_keys())
    assert filled.left() == {filled.old, filled.third, filled.leaf, filled.list, filled.running}
    assert find_garbage(filled.store).all_keys() == []


def test_a_forgotten_run_takes_along_what_only_it_needed(filled: Filled) -> None:
    remove_garbage(filled.store, ["one"])
    assert filled.old not in filled.left() and filled.third in filled.left()
    assert filled.store.list("runs/") == []
    with pytest.raises(UserError, match="run one is not recorded"):
        find_garbage(filled.store, ["one"])


def test_nothing_is_removed_while_a_step_runs(filled: Filled) -> None:
    before = {key for key in filled.store.list() if not key.startswith("leases/")}
    with acquire(filled.store, f"steps/score/{KEY}"), pytest.raises(UserError, match=r"steps/score/.* is being made"):
        remove_garbage(filled.store)
    assert {key for key in filled.store.list() if not key.startswith("leases/")} == before


def test_an_empty_store_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_garbage(open_store(str(tmp_path / "none"))).all_keys() == []
    shutil.rmtree(tmp_path / "none", ignore_errors=True)


# -- what is not proven unneeded stays


@pytest.mark.parametrize(
    "place", ["", "steps", "steps/distill", f"steps/distill/{KEY}", "runs", "objects", "leases", "jobs"]
)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT, errno.ENOTDIR])
def test_a_folder_that_cannot_be_listed_ends_gc_with_nothing_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    filled = Filled(FolderStore(tmp_path / "store"))
    with acquire(filled.store, "steps/score/done"):
        pass
    before, real = filled.left(), os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == tmp_path / "store" / place and (place or number not in (errno.ENOENT, errno.ENOTDIR)):
            raise OSError(number, os.strerror(number), path)
        return real(path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", scandir)
        if place or number not in (errno.ENOENT, errno.ENOTDIR):
            with pytest.raises(StoreUnusable if number == errno.EACCES else StoreError):
                find_garbage(filled.store)
    assert filled.left() == before


def test_a_folder_that_was_moved_and_linked_counts_and_a_link_that_leads_nowhere_ends_gc(tmp_path: Path) -> None:
    filled = Filled(FolderStore(tmp_path / "store"))
    found, steps = find_garbage(filled.store), tmp_path / "store" / "steps"
    steps.rename(tmp_path / "elsewhere")
    steps.symlink_to(tmp_path / "elsewhere")
    assert find_garbage(filled.store) == found
    (tmp_path / "elsewhere").rename(tmp_path / "unmounted")
    for use in (
        lambda: remove_garbage(filled.store),
        lambda: filled.store.list("steps/distill/"),
        lambda: filled.store.read(f"steps/distill/{KEY}/1.json"),
    ):
        with pytest.raises(StoreUnusable, match="a link that leads nowhere"):
            use()
    steps.unlink()
    steps.symlink_to(tmp_path / "store")
    with pytest.raises(StoreUnusable, match="a link to a folder above it"):
        remove_garbage(filled.store)


def test_what_no_object_is_named_like_is_not_removed(filled: Filled) -> None:
    for key in ("objects/README", "objects/ab/notes.txt", f"objects/ab/{'c' * 64}.bin"):
        filled.store.put(key, b"mine")
    remove_garbage(filled.store)
    assert filled.store.exists("objects/README") and filled.store.exists("objects/ab/notes.txt")
    assert filled.store.exists(f"objects/ab/{'c' * 64}.bin")


@pytest.mark.parametrize("pointer", [b"\0\0", b"", b"1", b"7", b"\xff9", None])
def test_whatever_latest_says_the_newest_attempt_is_the_one_that_stays(filled: Filled, pointer: bytes | None) -> None:
    filled.store.delete("runs/one/steps/distill.json")
    if pointer is None:
        filled.store.delete(f"steps/distill/{KEY}/latest")
    else:
        filled.store.put(f"steps/distill/{KEY}/latest", pointer)
    remove_garbage(filled.store)
    assert filled.third in filled.left() and filled.leaf in filled.left() and filled.old not in filled.left()


def test_a_damaged_newest_attempt_does_not_cost_the_good_one_before_it(filled: Filled) -> None:
    filled.store.put(f"steps/distill/{KEY}/3.json", b"\0" * 100)
    remove_garbage(filled.store)
    assert filled.new in filled.left()


def test_a_newest_attempt_with_a_flipped_bit_does_not_cost_the_good_one_before_it(filled: Filled) -> None:
    whole = manifest(4, filled.old)
    filled.store.put(f"steps/distill/{KEY}/4.json", whole.replace(b"1.5", b"1.4"))
    remove_garbage(filled.store)
    assert filled.third in filled.left()

    filled.store.put(f"steps/distill/{KEY}/4.json", whole)
    remove_garbage(filled.store)
    assert filled.third not in filled.left()


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"manifest": "file:///store/st', call("one").decode().encode("utf-16")]
)
def test_a_damaged_record_of_a_run_ends_gc_until_the_run_is_forgotten(filled: Filled, damage: bytes) -> None:
    filled.store.put("runs/one/steps/distill.json", damage)
    before = filled.left()
    with pytest.raises(UserError, match=r"runs/one/steps/distill\.json is damaged.*--forget one"):
        remove_garbage(filled.store)
    assert filled.left() == before
    remove_garbage(filled.store, ["one"])
    assert filled.old not in filled.left()


@pytest.mark.parametrize("named", ["manifest", "input"])
def test_an_attempt_is_named_however_json_is_spelled(filled: Filled, named: str) -> None:
    said = call("one", filled.first) if named == "manifest" else call("one", given=filled.first)
    filled.store.put("runs/one/steps/distill.json", said.replace(b"/", rb"\/"))
    third = manifest(3, filled.third, filled.list)
    escaped = third.replace(filled.third.encode(), b"".join(b"\\u%04x" % byte for byte in filled.third.encode()))
    filled.store.put(f"steps/distill/{KEY}/3.json", escaped)
    remove_garbage(filled.store)
    assert filled.left() == {filled.old, filled.third, filled.leaf, filled.list, filled.running}


@pytest.mark.parametrize("nothing", [b"{}", b'{"checksum": ""}', manifest(2, "0" * 64)])
def test_what_is_no_manifest_of_its_attempt_does_not_cost_the_good_one_before_it(
    filled: Filled, nothing: bytes
) -> None:
    filled.store.put(f"steps/distill/{KEY}/3.json", nothing)
    remove_garbage(filled.store)
    assert filled.new in filled.left()


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"checksum": "0"}', manifest(2, "0" * 64)])
def test_checkpoints_stay_while_the_manifest_of_their_attempt_is_damaged(filled: Filled, damage: bytes) -> None:
    filled.store.put(f"steps/distill/{KEY}/3.json", damage)
    remove_garbage(filled.store)
    assert filled.checkpoint in filled.left()


def test_a_record_larger_than_most_is_looked_into(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "RECORD_BYTES", 4)
    remove_garbage(filled.store)
    assert {filled.old, filled.third, filled.leaf, filled.list, filled.running} == filled.left()


# -- at the same time as others


def test_a_step_that_begins_ends_gc_and_nothing_more_is_removed(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GRACE_SECONDS", 20.0)
    monkeypatch.setattr(garbage, "CHECK_SECONDS", 0.05)
    real, held = garbage.find_garbage, list[object]()

    def found(store: ObjectStore, forget: object = ()) -> garbage.Garbage:
        held.append(acquire(store, f"steps/score/{KEY}"))
        return real(store)

    before = filled.left()
    monkeypatch.setattr(garbage, "find_garbage", found)
    with pytest.raises(UserError, match=r"steps/score/.* is being made now: gc stopped"):
        remove_garbage(filled.store)
    assert filled.left() == before
    assert not garbage.collecting(filled.store)


def test_what_is_named_or_written_between_the_two_looks_stays(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = garbage.find_garbage, list[int]()

    def found(store: ObjectStore, forget: object = ()) -> garbage.Garbage:
        looks.append(1)
        if len(looks) == 2:
            time.sleep(1.1)  # an S3 server tells times to the second
            put_object(store, b"orphan" * 1000, "a.bin")
            store.put("runs/two/steps/distill.json", call("two", recipe=f"x#sha256={filled.checkpoint}"))
        return real(store)

    monkeypatch.setattr(garbage, "find_garbage", found)
    removed = remove_garbage(filled.store)
    assert {filled.orphan, filled.checkpoint} <= filled.left() and filled.new not in filled.left()
    assert len(removed.objects) == 1 and removed.object_bytes == len(b"new result")


def test_a_recipe_of_a_submission_stays_for_a_month_and_that_of_a_schedule_with_it(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"{1}", b"{2}"))
    submit_recipe(filled.store, f"one#sha256={one}", b"{1}")
    submit_recipe(filled.store, f"two#sha256={two}", b"{2}", schedule="ab")
    remove_garbage(filled.store)
    assert {one, two} <= filled.left()
    real = type(filled.store).age
    monkeypatch.setattr(type(filled.store), "age", lambda self, key: real(self, key) + garbage.SUBMISSION_SECONDS + 2)
    assert f"recipes/{one}/submitted.json" in remove_garbage(filled.store).runs
    assert one not in filled.left() and two in filled.left()
    forget_schedule(filled.store, "ab", but=f"two#sha256={two}")
    assert two not in {key[8:72] for key in find_garbage(filled.store).objects}
    forget_schedule(filled.store, "ab")
    remove_garbage(filled.store)
    assert two not in filled.left()
