"""``gc`` removes what no run needs, and nothing else, on both stores."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from sida.errors import UserError
from sida.stores import ObjectStore, open_store, put_object
from sida.stores.garbage import find_garbage, remove_garbage
from sida.stores.lease import acquire

KEY = hashlib.sha256(b"key").hexdigest()


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
            store.put_if_absent(f"{folder}/{number}.json", json.dumps({"weights": digest, "x": self.list}).encode())
            store.put(f"jobs/distill/{KEY}/{number}/spec.json", b"{}")
        store.put(f"{folder}/latest", b"3")
        store.put(f"jobs/distill/{KEY}/3/checkpoints/9.json", json.dumps(self.checkpoint).encode())
        store.put(f"jobs/distill/{KEY}/4/checkpoints/9.json", json.dumps(self.running).encode())
        address = store.address_of(f"{folder}/1.json")
        store.put("runs/one/steps/distill.json", json.dumps({"manifest": address}).encode())

    def put(self, content: bytes, name: str = "a.bin") -> str:
        return put_object(self.store, content, name).sha256

    def left(self) -> set[str]:
        return {key.rpartition("/")[2][:64] for key in self.store.list("objects/")}


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
