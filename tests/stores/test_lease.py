"""One writer per key, whatever happens to the writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sida.errors import Fenced, LeaseHeld, StoreError
from sida.process.identity import Process, machine_id
from sida.stores import ObjectStore, open_store
from sida.stores import lease as leases
from sida.stores.folder import FolderStore
from sida.stores.lease import acquire, check_fence, live_number
from tests.racing import racers

KEY = "steps/distill/ab12"


def lease_object(store: ObjectStore, number: int) -> str:
    return f"leases/{KEY}/{number:08d}.json"


def edit(store: ObjectStore, number: int, **changes: object) -> None:
    """Rewrite what a holder said, as a process of another machine or another time would have."""
    said = json.loads(store.read(lease_object(store, number)))
    store.put(lease_object(store, number), json.dumps({**said, **changes}).encode())


def test_a_held_key_is_refused_naming_holder_and_remedy(store: ObjectStore) -> None:
    with acquire(store, KEY, owner="run digits-7") as held:
        assert held.number == 1
        with pytest.raises(LeaseHeld) as caught:
            acquire(store, KEY)
    said = str(caught.value)
    for word in (
        KEY,
        f"process {os.getpid()}",
        os.uname().nodename,
        "run digits-7",
        "since 20",
        "SIDA_LEASE_WAIT",
    ):
        assert word in said
    assert "\n" not in said


def test_a_released_key_goes_to_the_next_at_once_with_a_larger_number(store: ObjectStore) -> None:
    numbers = []
    for _ in range(4):
        with acquire(store, KEY) as held:
            held.check()
            assert live_number(store, KEY) == held.number
            numbers.append(held.number)
        assert live_number(store, KEY) is None
    assert numbers == [1, 2, 3, 4]
    assert len(store.list("leases/")) == 2  # older ones are pruned, their numbers are not used again


def test_a_key_and_a_key_below_it_are_different_leases(store: ObjectStore) -> None:
    with acquire(store, "a/b"), acquire(store, "a"):
        pass


def test_one_who_waits_says_for_whom_and_gets_the_key_when_it_is_released(store: ObjectStore) -> None:
    held = acquire(store, KEY)
    threading.Timer(0.3, held.release).start()
    notes: list[str] = []
    begun = time.monotonic()
    with acquire(store, KEY, wait=20, note=notes.append) as mine:
        assert mine.number == 2 and time.monotonic() - begun < 5
    assert len(notes) == 1 and f"waiting for process {os.getpid()}" in notes[0]


def test_a_wait_that_is_not_long_enough_ends_in_lease_held(store: ObjectStore) -> None:
    with acquire(store, KEY), pytest.raises(LeaseHeld):
        acquire(store, KEY, ttl=1, wait=0.2)


def test_a_lease_outlives_its_time_because_it_is_renewed(store: ObjectStore) -> None:
    with acquire(store, KEY, ttl=0.6) as held:
        time.sleep(1.5)
        held.check()
        assert live_number(store, KEY) == 1
        with pytest.raises(LeaseHeld):
            acquire(store, KEY)


def test_the_holder_that_was_taken_over_is_fenced_and_so_are_its_workers(store: ObjectStore) -> None:
    with acquire(store, KEY) as old:
        check_fence(store, KEY, old.number)
        edit(store, 1, released=True)
        with acquire(store, KEY, owner="the second") as new:
            for check in (old.check, lambda: check_fence(store, KEY, old.number)):
                with pytest.raises(Fenced, match="the second"):
                    check()
            with pytest.raises(Fenced, match="the second"):
                old.raise_if_lost()
            new.check()
            check_fence(store, KEY, new.number)


def test_a_fenced_holder_that_releases_late_does_not_end_its_successor(store: ObjectStore) -> None:
    old = acquire(store, KEY)
    edit(store, 1, released=True)
    with acquire(store, KEY) as new:
        old.release()
        new.check()
        assert live_number(store, KEY) == new.number


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(store: ObjectStore) -> None:
    script = (
        "import os, signal, sys; from sida.stores.lease import acquire; from sida.stores import open_store\n"
        f"acquire(open_store(sys.argv[1]), {KEY!r}, ttl=1000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, store.address])
    with acquire(store, KEY) as mine:
        assert mine.number == 2


def test_a_reused_pid_is_not_taken_for_the_holder(store: ObjectStore) -> None:
    acquire(store, KEY).release()
    edit(store, 1, released=False, process_started="12")
    acquire(store, KEY).release()


def aged(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, seconds: float) -> None:
    """Have the store say that everything was written so much longer ago than it was."""
    real = type(store).age
    monkeypatch.setattr(type(store), "age", lambda self, key: real(self, key) + seconds)


def test_a_holder_on_another_machine_is_believed_until_the_store_says_that_it_expired(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire(store, KEY, ttl=20).release()
    edit(store, 1, released=False, machine="another", host="node-7", pid=1)
    with pytest.raises(LeaseHeld, match="end it on node-7"):
        acquire(store, KEY)
    aged(monkeypatch, store, 20 + leases.SLACK_SECONDS - 3)
    with pytest.raises(LeaseHeld):
        acquire(store, KEY)
    aged(monkeypatch, store, 6)
    acquire(store, KEY).release()


@pytest.mark.parametrize("ahead", [60.0, -60.0, 1e6])
def test_another_host_s_clock_neither_takes_a_live_lease_nor_keeps_a_dead_one(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    holder = acquire(store, KEY, ttl=30)
    edit(store, 1, machine="another")
    clock = time.time
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: clock() + ahead)
        with pytest.raises(LeaseHeld):
            acquire(store, KEY)
        aged(elsewhere, store, 36)
        with acquire(store, KEY) as mine:
            assert mine.number == 2
    holder.release()


def test_a_living_process_of_this_machine_holds_its_key_whatever_the_clocks_say(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with acquire(store, KEY):
        aged(monkeypatch, store, 1e6)
        edit(store, 1, expires=0.0)
        assert live_number(store, KEY) == 1
        with pytest.raises(LeaseHeld):
            acquire(store, KEY)


def test_a_holder_that_renews_nothing_is_taken_over_by_one_who_watches_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SLACK_SECONDS", 0.1)
    aged(monkeypatch, store, -1e6)  # the store's own clock was set
    acquire(store, KEY, ttl=0.5).release()
    edit(store, 1, released=False, machine="another", created=1e10, expires=1e10 + 3600, renewals=1000)
    with acquire(store, KEY, ttl=0.5, wait=10) as mine:
        assert mine.number == 2


def test_the_life_of_a_lease_of_an_earlier_version_follows_from_its_renewals() -> None:
    said = {"host": "a", "machine": "b", "pid": 1, "process_started": "1", "user": "u", "run": "", "released": False}
    whole = leases.Holder.parse(
        json.dumps(said | {"created": 100.0, "expires": 730.0, "renewals": 60, "nonce": ""}).encode()
    )
    assert whole.ttl == 30.0 and whole.host == "a"


def test_a_slow_claimant_does_not_get_a_number_that_was_used_and_pruned(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        acquire(store, KEY).release()  # 3 and 4 are left
    holder = acquire(store, KEY)
    newest = leases.newest_number
    answers = iter([1])  # as if it had looked when 1 was the newest
    monkeypatch.setattr(leases, "newest_number", lambda *a: next(answers, None) or newest(*a))
    with pytest.raises(LeaseHeld):
        acquire(store, KEY)
    holder.check()
    holder.release()


class Away(FolderStore):
    """A store that fails while ``away``."""

    away = False

    def put(self, key, source):  # type: ignore[no-untyped-def]
        if self.away:
            raise StoreError("the store is away")
        return super().put(key, source)


def test_a_holder_that_could_not_renew_in_time_goes_on_when_nobody_took_over(tmp_path: Path) -> None:
    store = Away(tmp_path)
    held = acquire(store, KEY, ttl=0.4)
    for _ in range(2):
        store.away = True
        time.sleep(0.6)
        with pytest.raises(StoreError, match="the store is away"):
            held.check()
        held.raise_if_lost()
        store.away = False
        held.check()  # late, but still the newest
    held.release()


def test_a_holder_that_could_not_renew_in_time_is_fenced_by_the_one_who_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SLACK_SECONDS", 0.1)
    store = Away(tmp_path)
    held = acquire(store, KEY, ttl=0.4)
    store.away = True
    with acquire(open_store(str(tmp_path)), KEY, ttl=0.4, wait=20, owner="the second"):
        store.away = False
        with pytest.raises(Fenced, match="the second"):
            held.check()
        with pytest.raises(Fenced):
            held.guarded(lambda: store.put("published", b"1"))
        assert not store.exists("published")
    held.release()


@pytest.mark.parametrize(
    "content",
    [
        b"{ half",
        b"\0" * 40,
        b"[]",
        b"5",
        b'{"pid": "x"}',
        b"[" * 100_000,
        b'{"host": 1}',
        b'{"created": 1, "expires": 2, "renewals": -3}',
        b'{"ttl": 9, "created": 1, "released": "no"}',
        b'{"ttl": 9, "created": 1, "pid": 0}',
        b'{"ttl": 9, "created": 1, "pid": -1}',
    ],
)
def test_a_lease_that_cannot_be_read_is_held_until_it_would_have_expired(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    store.put(lease_object(store, 1), content)
    before = time.monotonic()
    with pytest.raises(LeaseHeld, match="somebody whose lease cannot be read"):
        acquire(store, KEY, ttl=5, wait=0.3)
    assert time.monotonic() - before < 3 and len(store.list("leases/")) == 1
    aged(monkeypatch, store, leases.UNKNOWN_SECONDS + leases.SLACK_SECONDS + 3)
    with acquire(store, KEY) as mine:
        assert mine.number == 2


def test_a_field_of_a_later_version_is_passed_over(store: ObjectStore) -> None:
    with acquire(store, KEY):
        edit(store, 1, zone="eu", ttl="30")
        with pytest.raises(LeaseHeld, match=f"process {os.getpid()}"):
            acquire(store, KEY)


def test_a_list_that_shows_what_is_not_so_ends_the_attempt_and_fills_nothing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with acquire(store, KEY):
        monkeypatch.setattr(leases, "newest_number", lambda *a: 0)
        with pytest.raises(LeaseHeld, match="run again"):
            acquire(store, KEY, wait=0.5)
    assert len(store.list("leases/")) == 1


def test_a_lease_whose_creation_failed_half_way_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)

    def breaks(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("sida.stores.folder._sync_folder", breaks)
        broken.setattr("sida.stores.lease.replace", lambda *a, **k: monkeypatch.undo() or replace(*a, **k))
        with pytest.raises(StoreError, match="Input/output error"):
            acquire(store, KEY)
    acquire(store, KEY).release()


def test_a_process_is_known_by_pid_and_start_time() -> None:
    me = Process.current()
    assert me.alive() and Process.parse(str(me)) == me
    assert not replace(me, started="1").alive()
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = Process.of(child.pid)
        assert known.alive()
        child.kill()
        time.sleep(0.2)
        assert not known.alive()  # a zombie: nobody has waited for it yet
    assert not known.alive() and not Process.of(child.pid).alive()
    assert machine_id() == machine_id()


def _race(where: str, folder: str, rounds: int) -> int:
    """Take the key again and again; write down when it was held, and fail if a second holder is seen inside."""
    store, held = open_store(where), 0
    inside = Path(folder) / "inside"
    for _ in range(rounds):
        with acquire(store, KEY, ttl=20, wait=120) as lease:
            handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails when another one is inside
            lease.check()
            held += 1
            os.close(handle)
            inside.unlink()
    return held


@pytest.mark.parametrize("processes", [16])
def test_of_many_racing_processes_exactly_one_holds_the_key_at_a_time(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    with racers(processes) as pool:
        jobs = [pool.apply_async(_race, (address, str(tmp_path), 2)) for _ in range(processes)]
        assert [job.get(120) for job in jobs] == [2] * processes
    assert leases.newest_number(open_store(address), KEY) == 2 * processes


def _claim(where: str, start: float) -> int:
    store = open_store(where)
    time.sleep(max(0.0, start - time.time()))
    try:
        number = acquire(store, KEY, ttl=60).number
    except LeaseHeld:
        return 0
    time.sleep(1.0)  # keeps it while the others try
    return number


def test_of_32_processes_that_take_over_a_dead_lease_one_wins(address: str) -> None:
    store = open_store(address)
    acquire(store, KEY).release()
    edit(store, 1, released=False, process_started="12")
    with racers(32) as pool:
        start = time.time() + 0.3
        jobs = [pool.apply_async(_claim, (address, start)) for _ in range(32)]
        assert sorted(job.get(60) for job in jobs) == [0] * 31 + [2]
