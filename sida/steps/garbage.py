"""Find and remove what a store holds and no run needs.

Needed are: every attempt that a recorded run names, every step's newest attempt, unfinished jobs, the recipes of submissions (for
30 days) and schedules, and each object whose sha256 occurs in what is kept. So everything that any record names stays. Not needed
are superseded attempts that no run names, their jobs, checkpoints of finished attempts, and the objects that only those named.
What a run names, and whether an attempt is whole, say the readers that everybody uses: what they refuse counts for nothing.

What is removed was not needed at two looks, ``GRACE_SECONDS`` apart, and was not written in between. Between them whoever found a
result, or stored an object, has named it. Steps and ``gc`` keep apart by their leases: each takes its own and then looks for the
other's. So one of them sees the other: a collection ends, and a step waits for that end before it reads or stores anything.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from sida import layout
from sida.errors import NotFound, StoreUnusable, UserError
from sida.manifests import parse_manifest, read_record
from sida.origin import manifest_key
from sida.records import StepCall
from sida.stores import ObjectStore
from sida.stores.base import RECORD_BYTES
from sida.stores.lease import Lease, acquire, live_number

DIGEST = re.compile(rb"[0-9a-f]{64}")
SUBMISSION_SECONDS = 30 * 86400.0
GRACE_SECONDS = 10.0
CHECK_SECONDS = 1.0  # how often a collection looks for steps
LEASE = "gc"
# For a collection, which sees our lease within seconds, or is itself given up after its lease's life
STEP_WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Garbage:
    """Keys that may go, by kind, and the bytes of the objects among them."""

    runs: list[str]  # records of runs that are to be forgotten, and of submissions long ago
    attempts: list[str]
    jobs: list[str]
    objects: list[str]
    object_bytes: int

    def all_keys(self) -> list[str]:
        """Return all keys in the order of removal: what names an object goes before the object."""
        return [*self.runs, *self.attempts, *self.jobs, *self.objects]


def find_garbage(store: ObjectStore, forget: Iterable[str] = ()) -> Garbage:
    """Look through the whole store; remove nothing. Runs in ``forget`` are treated as if they had never been.

    Raises UserError for a run that is not recorded, and the store's errors.
    """
    keys = store.list()
    records: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith(layout.RUNS):
            records.setdefault(layout.run_at(key), []).append(key)
    forgotten = {layout.check_run_id(run) for run in forget}
    if unknown := forgotten - records.keys():
        raise UserError(f"run {min(unknown)} is not recorded in {store.address}: `sida status` lists runs")
    going = [key for run in forgotten for key in records.pop(run)]
    needed, unneeded = _named_attempts(store, chain(*records.values())), _named_attempts(store, going, forgotten=True)
    going += [key for key in keys if layout.is_submission(key) and _age(store, key) > SUBMISSION_SECONDS]
    attempts = _attempts(store, keys, needed, unneeded)
    superseded, manifests = set(attempts), set(filter(layout.attempt_at, keys))
    whole = cache(lambda manifest: manifest in manifests and _is_whole(store, manifest))
    jobs = [key for key in keys if _job_is_over(key, superseded, whole)]
    removed = {*going, *attempts, *jobs}
    kept = [key for key in keys if key not in removed and not key.startswith((layout.OBJECTS, layout.LEASES))]
    named = _named_objects(store, kept, [key for key in keys if key.startswith(layout.OBJECTS)])
    objects = [key for key in keys if layout.is_object(key) and layout.digest_at(key) not in named]
    return Garbage(sorted(going), attempts, jobs, objects, sum(_size(store, key) for key in objects))


def remove_garbage(store: ObjectStore, forget: Iterable[str] = ()) -> Garbage:
    """Find and remove, under the lease of garbage collection; return what was removed.

    Raises UserError while a step runs: it may have stored what no manifest names yet.
    """
    forget = list(forget)
    with acquire(store, LEASE, wait=CHECK_SECONDS) as lease:
        undisturbed = _undisturbed(store, lease)  # knows the leases of before; the next line looks at these
        if running := _running(store):
            raise UserError(f"{running} is being made in {store.address}: wait until it is done, then run gc again")
        found = find_garbage(store, forget)
        marks = {key: _written(store, key) for key in found.all_keys()}
        until = time.monotonic() + (GRACE_SECONDS if marks else 0)
        while (left := until - time.monotonic()) > 0:
            undisturbed()
            time.sleep(min(left, CHECK_SECONDS))

        def untouched(keys: list[str]) -> list[str]:
            return [key for key in keys if marks.get(key) == _written(store, key) is not None]

        again = find_garbage(store, forget) if marks else found
        objects = untouched(again.objects)
        going = replace(
            again,
            runs=untouched(again.runs),
            attempts=untouched(again.attempts),
            jobs=untouched(again.jobs),
            objects=objects,
            object_bytes=sum(_size(store, key) for key in objects),
        )
        for key in going.all_keys():
            undisturbed()
            if _written(store, key) == marks[key]:
                store.delete(key)
    return going


def _undisturbed(store: ObjectStore, lease: Lease) -> Callable[[], None]:
    """Return what raises UserError when a step has begun, and Fenced when one has given this collection up; asks once a second."""
    before = set(store.list(layout.LEASES))

    def check() -> None:
        if lease.checked(CHECK_SECONDS):
            return
        lease.check()
        for place in map(layout.lease_at, set(store.list(layout.LEASES)) - before):
            if place is not None and place[0] != LEASE:
                raise UserError(
                    f"{place[0]} in {store.address} is being made now: gc stopped; run it again when that is done"
                )

    return check


def collecting(store: ObjectStore) -> bool:
    """Return whether garbage is being collected now."""
    return live_number(store, LEASE) is not None


def let_collection_end(store: ObjectStore, note: Callable[[str], None]) -> None:
    """Return when no garbage is being collected; for a step that holds its lease, at whose sight a collection ends."""
    if collecting(store):
        acquire(store, LEASE, wait=STEP_WAIT_SECONDS, note=note).release()


# -- what is not needed


def _attempts(store: ObjectStore, keys: Iterable[str], kept: set[str], forgotten: set[str]) -> list[str]:
    """Return superseded attempts that no kept run's records name, and newest ones that only those of forgotten runs do."""
    by_folder: dict[str, list[tuple[int, str]]] = {}
    for key in keys:
        if attempt := layout.attempt_at(key):
            by_folder.setdefault(key.rpartition("/")[0], []).append((attempt.number, key))
    superseded, folders = [], []
    for folder, attempts in by_folder.items():
        counting, gone = True, []
        for _, key in sorted(attempts, reverse=True):
            if key not in kept and (key in forgotten or not counting):
                gone.append(key)
            counting = counting and not _is_whole(store, key)  # a damaged one hides nothing
        superseded += gone
        if len(gone) == len(attempts):
            folders.append(folder)
    left = set(keys)
    pointers = [layout.latest_key(folder) for folder in sorted(folders)]
    return sorted(superseded) + [key for key in pointers if key in left]


def _named_attempts(store: ObjectStore, records: Iterable[str], *, forgotten: bool = False) -> set[str]:
    """Return the keys of the attempts that steps' calls made or were given.

    Raises UserError for a record that cannot be read, unless its run is ``forgotten``: nobody knows what that run needs.
    """
    named = set()
    for key in records:
        if not (call_at := layout.call_at(key)):
            continue
        try:
            call = read_record(store, key, StepCall)
        except NotFound:  # gone meanwhile
            continue
        except StoreUnusable:
            raise
        except UserError as error:
            if forgotten:
                continue
            raise UserError(
                f"{store.address_of(key)} is damaged, and what its run needs is not known: bring back a copy, or forget "
                f"the run (--forget {call_at[0]})"
            ) from error
        named |= {
            layout.place_of(address)[1] for address in (call.manifest, *(i.address for i in call.inputs.values()))
        }
    return named


def _is_whole(store: ObjectStore, key: str) -> bool:
    """Return whether an attempt is there as it was published."""
    try:
        return manifest_key(parse_manifest(store.read(key), key)) == key
    except StoreUnusable:
        raise
    except (NotFound, UserError):  # damaged, or of another schema
        return False


def _job_is_over(key: str, superseded: set[str], whole: Callable[[str], bool]) -> bool:
    """Return whether a job's file goes with its attempt, or is a finished attempt's checkpoint."""
    if not (file := layout.job_file_at(key)):
        return False
    attempt, name = file
    manifest = layout.manifest_key(*attempt)
    return manifest in superseded or (name.startswith("checkpoints/") and whole(manifest))


def _named_objects(store: ObjectStore, records: Iterable[str], objects: list[str]) -> set[str]:
    """Return the digests that the records name, and those that JSON objects named by them name in turn."""
    by_digest: dict[str, list[str]] = {}
    for key in objects:
        by_digest.setdefault(layout.digest_at(key), []).append(key)
    needed: set[str] = set()
    waiting = list(records)
    while waiting:
        for digest in DIGEST.findall(_text(store, [waiting.pop()])):
            name = digest.decode()
            if name in by_digest and name not in needed:
                needed.add(name)
                waiting += [key for key in by_digest[name] if key.endswith(".json")]
    return needed


def _running(store: ObjectStore) -> str:
    """Return a step's key whose lease is alive; empty when there is none."""
    leases = filter(None, map(layout.lease_at, store.list(layout.LEASES)))
    held = sorted({key for key, _ in leases if key != LEASE})
    return next((key for key in held if live_number(store, key) is not None), "")


def _text(store: ObjectStore, keys: Iterable[str]) -> bytes:
    """Return the records' bytes, one after another, and JSON as we spell it too; large files of other kinds are no records."""
    parts = []
    for key in keys:
        try:
            if key.endswith(".json") or store.stat(key).size <= RECORD_BYTES:
                parts.append(store.read(key))
        except NotFound:
            continue  # gone meanwhile
        with suppress(ValueError, RecursionError):
            parts.append(json.dumps(json.loads(parts[-1])).encode())
    return b"\n".join(parts)


def _written(store: ObjectStore, key: str) -> str | None:
    """Return what every write changes; None where nothing is."""
    try:
        return store.stat(key).written
    except NotFound:
        return None


def _age(store: ObjectStore, key: str) -> float:
    try:
        return store.age(key)
    except NotFound:
        return 0.0


def _size(store: ObjectStore, key: str) -> int:
    try:
        return store.stat(key).size
    except NotFound:
        return 0


def summary(garbage: Garbage) -> str:
    """Return one line: how much of what."""
    counts = {
        "runs' records": len(garbage.runs),
        "attempts' files": len(garbage.attempts),
        "jobs' files": len(garbage.jobs),
        "objects": len(garbage.objects),
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{text or 'nothing'} ({garbage.object_bytes / 2**20:.1f} MiB)"
