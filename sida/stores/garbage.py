"""Find and remove what a store holds and no run needs.

Needed are: every attempt that a recorded run names, every attempt that is a step's latest, unfinished jobs, and each object whose
sha256 occurs in what is kept. So everything that any record names stays. Not needed are superseded attempts that no run names,
their jobs, checkpoints of finished attempts, and the objects that only those named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from sida import layout
from sida.errors import NotFound, UserError
from sida.stores import ObjectStore
from sida.stores.lease import acquire, live_number

DIGEST = re.compile(rb"[0-9a-f]{64}")
RECORD_BYTES = 64 << 20  # JSON objects up to here are looked into for digests of others
LEASE = "gc"


@dataclass(frozen=True)
class Garbage:
    """Keys that may go, by kind, and the bytes of the objects among them."""

    runs: list[str]  # records of runs that are to be forgotten
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

    attempts = _attempts(store, keys, _text(store, chain(*records.values())), _text(store, going))
    superseded, manifests = set(attempts), set(filter(layout.attempt_at, keys))
    jobs = [key for key in keys if _job_is_over(key, superseded, manifests)]
    removed = {*going, *attempts, *jobs}
    kept = [key for key in keys if key not in removed and not key.startswith((layout.OBJECTS, layout.LEASES))]
    needed = _named_objects(store, kept, [key for key in keys if key.startswith(layout.OBJECTS)])
    objects = [key for key in keys if key.startswith(layout.OBJECTS) and layout.digest_at(key) not in needed]
    return Garbage(sorted(going), attempts, jobs, objects, sum(_size(store, key) for key in objects))


def remove_garbage(store: ObjectStore, forget: Iterable[str] = ()) -> Garbage:
    """Find again and remove, under the lease of garbage collection.

    Raises UserError while a step runs: it may have stored what no manifest names yet.
    """
    with acquire(store, LEASE):
        if running := _running(store):
            raise UserError(f"{running} is being made in {store.address}: wait until it is done, then run gc again")
        garbage = find_garbage(store, forget)
        for key in garbage.all_keys():
            store.delete(key)
    return garbage


def _attempts(store: ObjectStore, keys: Iterable[str], kept: bytes, forgotten: bytes) -> list[str]:
    """Return superseded attempts that no kept run's records name, and latest ones that only those of forgotten runs do."""
    superseded = []
    for key in keys:
        attempt = layout.attempt_at(key)
        if attempt is None or key.encode() in kept:
            continue
        latest = _latest(store, layout.step_folder(attempt.step, attempt.key))
        if key.encode() in forgotten or latest not in ("", str(attempt.number)):
            superseded.append(key)
    folders = {key.rpartition("/")[0] for key in superseded}
    left = {key.rpartition("/")[0] for key in keys if key.endswith(".json") and key not in superseded}
    return superseded + [layout.latest_key(folder) for folder in sorted(folders - left)]


def _latest(store: ObjectStore, folder: str) -> str:
    """Return the number of the attempt that counts; empty if a killed writer did not record it: then all stay."""
    try:
        return store.read(layout.latest_key(folder)).decode("ascii", "replace").strip()
    except NotFound:
        return ""


def _job_is_over(key: str, superseded: set[str], manifests: set[str]) -> bool:
    """Return whether a job's file goes with its attempt, or is a finished attempt's checkpoint."""
    if not (file := layout.job_file_at(key)):
        return False
    attempt, name = file
    manifest = layout.manifest_key(*attempt)
    return manifest in superseded or (name.startswith("checkpoints/") and manifest in manifests)


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
    """Return the records' bytes, one after another; large ones are not records."""
    parts = []
    for key in keys:
        try:
            if store.stat(key).size <= RECORD_BYTES:
                parts.append(store.read(key))
        except NotFound:
            continue  # gone meanwhile
    return b"\n".join(parts)


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
