"""Checkpoints: everything a run needs to continue bit for bit, as float32 safetensors plus JSON in the store.

    <job>/checkpoints/<images seen>-<fencing number>.json    what it holds and which object; written once the object is whole
    objects/...safetensors                                   the tensors, content-addressed

The newest checkpoint whose object is whole counts. No two holders of the lease write the same key, so that a writer which was
taken over cannot replace what its successor wrote. Older ones are removed only after the new one was read back whole.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sida import progress
from sida.errors import Corrupt, NotFound
from sida.layout import checkpoint_name
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object, verify_object
from sida.worker.job import Job


@dataclass(frozen=True)
class Checkpoint:
    """``state``: small JSON values (images seen, best score, curve); ``tensors``: named tensors."""

    state: dict[str, Any]
    tensors: dict[str, Tensor]


def write(job: Job, seen: int, state: str, path: Path, keep: int) -> None:
    """Publish ``state`` (JSON) with the tensors in the file at ``path``; then remove all but the newest ``keep`` and the best.

    May be repeated after any failure: what is there already is not written again.
    """
    ref = job.put(path, path.name)
    place = Place(seen, job.fence)
    content = {"object": [ref.name, ref.size, ref.sha256], "state": json.loads(state)}
    job.publish(place.name, json.dumps(content).encode())
    verify_object(job.store, ref)  # what was written can be read: now the old ones may go
    best = content["state"].get("best_seen")
    places = _places(job)
    kept = [p for p in places if p in places[-keep:] or p.seen == best]
    needed = {_tensors(job, p) for p in kept}
    for old in (p for p in places if p not in kept):
        _remove(job, old, needed)


def _remove(job: Job, place: Place, needed: set[ObjectRef | None]) -> None:
    """The checkpoint, then its tensors unless another one has the same."""
    ref = _tensors(job, place)
    job.check()
    job.store.delete(place.key(job))
    if ref is not None and ref not in needed:
        job.store.delete(ref.key)


def _tensors(job: Job, place: Place) -> ObjectRef | None:
    """Where its tensors are; None when it cannot be read."""
    with suppress(NotFound, ValueError, LookupError, TypeError):
        return ObjectRef(*_content(job, place)["object"])
    return None


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Place:
    """Where in the run a checkpoint stands, and under which lease it was written."""

    seen: int
    fence: int

    @property
    def name(self) -> str:
        return checkpoint_name(self.seen, self.fence)

    def key(self, job: Job) -> str:
        return f"{job.folder}/{self.name}"


def newest(job: Job) -> Checkpoint | None:
    """The newest whole checkpoint; a damaged one is reported and removed, and the one before it used.

    The first process chooses, the others read the same one, so that all continue from one place. Raises NotFound where a process
    cannot see what the first one chose.
    """
    chosen = job.processes.from_first(_choose(job) if job.processes.first else None)
    if chosen is None:
        return None
    return _load(job, Place(*chosen))


def _choose(job: Job) -> list[int] | None:
    for place in reversed(_places(job)):
        try:
            fetch_object(job.store, ObjectRef(*_content(job, place)["object"]))
        except (Corrupt, NotFound, ValueError, LookupError, TypeError) as error:
            where = job.store.address_of(place.key(job))
            progress.note(job.step, f"checkpoint {where} cannot be used ({error}): using the one before it")
            # Its bytes would stand in the way: a run that comes here again makes an object of the same name.
            _remove(job, place, set())
            continue
        return [place.seen, place.fence]
    return None


def _load(job: Job, place: Place) -> Checkpoint:
    content = _content(job, place)
    path = fetch_object(job.store, ObjectRef(*content["object"]))
    return Checkpoint(content["state"], load_file(path))


def _content(job: Job, place: Place) -> dict[str, Any]:
    return json.loads(job.store.read(place.key(job)))


def _places(job: Job) -> list[Place]:
    """All checkpoints, oldest first."""
    found = []
    for key in job.store.list(f"{job.folder}/checkpoints/"):
        seen, _, fence = key.rsplit("/", 1)[-1].removesuffix(".json").partition("-")
        if seen.isdigit() and fence.isdigit():
            found.append(Place(int(seen), int(fence)))
    return sorted(found)
