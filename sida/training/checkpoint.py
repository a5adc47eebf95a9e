"""Checkpoints: everything a run needs to continue bit for bit, as float32 safetensors plus JSON in the store.

    <job>/checkpoints/<images seen>-<fencing number>.json    a ``Record``; written once the objects that it names are whole
    objects/...safetensors                                   the tensors, content-addressed

There is one object; where tensors are divided among processes, one of each process that owns some (``sida.training.owners``).
A tensor is whole in any case: a training continues from the same checkpoints however it is divided.

The newest checkpoint that is whole counts: the record is proven to be of its place, and the objects to be what it names. No two
holders of the lease write the same key, so that a writer which was taken over cannot replace what its successor wrote. Older ones
are removed only after the new one was read back whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel
from safetensors import SafetensorError
from torch import Tensor

from sida import progress
from sida.errors import Corrupt, NotFound, UserError
from sida.layout import checkpoint_at, checkpoint_name
from sida.manifests import Part, digest_of
from sida.recipe import Evaluation, Method
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object, verify_object
from sida.training.stored import StoredTensors
from sida.training.told import part_files, read_told
from sida.worker.job import Job

SCHEMA_VERSIONS = (2, 3)  # of one object; of several, which older versions of this program refuse and leave alone
_VERSIONS = " or ".join(map(str, SCHEMA_VERSIONS))
BEST_SEEN = "selection/best_seen"  # the value that says which checkpoint has the best score
CHECKSUM = "checksum"  # the value that proves the others, the object and the place; older checkpoints have none
DAMAGES = (Corrupt, NotFound, ValueError, LookupError, TypeError, RecursionError, SafetensorError)
ABSENT = object()  # the value of a field that is not there


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run's parts (``sida.training.state``) after ``seen`` images; ``values`` are fit for JSON."""

    seen: int
    values: dict[str, Any]
    tensors: Mapping[str, Tensor]


class Record(Part):
    """A checkpoint in the store; ``object`` holds the first process's tensors, or all, ``parts`` those of the others."""

    LATER = ("parts",)

    schema_version: Literal[2, 3] = 2
    object: ObjectRef
    parts: tuple[ObjectRef, ...] = ()
    values: dict[str, Any]

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All that hold its tensors."""
        return (self.object, *self.parts)


def write_checkpoint(
    job: Job[Any], seen: int, values: dict[str, Any], objects: tuple[ObjectRef, ...], keep: int
) -> None:
    """Publish a checkpoint whose objects are in the store; then remove all but the newest ``keep`` and the best.

    The first object is this process's own. May be repeated after any failure: what is there already is not written again.
    """
    place = Place(seen, job.fence)
    proof = {CHECKSUM: _checksum(place.key(job), objects, values)}  # a value: older versions pass over one more
    version: Literal[2, 3] = 3 if objects[1:] else 2
    record = Record(schema_version=version, object=objects[0], parts=objects[1:], values=values | proof)
    job.publish(place.name, json.dumps(record.model_dump()).encode())
    verify_object(job.store, objects[0])  # what was written can be read: now the old ones may go
    keys = _keys(job)
    places, best = _places(job, keys), values.get(BEST_SEEN)
    kept = [place for place in places if place in places[-keep:] or place.seen == best]
    needed = {ref for place in kept for ref in _objects(job, place)}
    _remove_told(job, keys, seen, needed)
    for old in (place for place in places if place not in kept):
        _remove(job, old, needed)


def _remove(job: Job[Any], place: Place, needed: set[ObjectRef]) -> None:
    """Delete the checkpoint, then its tensors unless another one has the same."""
    refs = _objects(job, place)
    job.check()
    job.store.delete(place.key(job))
    for ref in refs:
        if ref not in needed:
            job.store.delete(ref.key)


def _remove_told(job: Job[Any], keys: Iterable[str], seen: int, needed: set[ObjectRef]) -> None:
    """Delete what was told of parts up to this checkpoint, and parts that no checkpoint has; later ones are ``needed`` too."""
    old = []
    for file in part_files(job, keys):
        told = read_told(job, file)
        if file.seen <= seen:
            old.append((file, told))
        elif told is not None:
            needed.add(told.object)
    for file, told in old:
        job.check()
        if told is not None and told.object not in needed:
            job.store.delete(told.object.key)
        job.store.delete(file.key)


def _objects(job: Job[Any], place: Place) -> tuple[ObjectRef, ...]:
    """Return where its tensors are; nothing when it cannot be read."""
    with suppress(*DAMAGES):
        return _record(job, place).objects
    return ()


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Place:
    """Where in the run a checkpoint stands, and under which lease it was written."""

    seen: int
    fence: int

    @property
    def name(self) -> str:
        return checkpoint_name(self.seen, self.fence)

    def key(self, job: Job[Any]) -> str:
        return f"{job.folder}/{self.name}"


def newest(job: Job[Any]) -> Checkpoint | None:
    """Return the newest whole checkpoint; what is none is reported and removed, and the one before it used.

    The first process chooses, the others read the same one, so that all continue from one place. Raises NotFound where a process
    cannot see what the first one chose, and UserError where another version of this program wrote it.
    """
    chosen = job.processes.from_first(_choose(job) if job.processes.first else None)
    if chosen is None:
        return None
    place = Place(*chosen)
    record = _record(job, place)
    return Checkpoint(place.seen, record.values, _tensors(job, record))


def _tensors(job: Job[Any], record: Record) -> StoredTensors:
    return StoredTensors(fetch_object(job.store, ref) for ref in record.objects)


def _choose(job: Job[Any]) -> list[int] | None:
    for place in reversed(_places(job, _keys(job))):
        try:
            _tensors(job, _record(job, place))
            return [place.seen, place.fence]
        except DAMAGES as error:
            address = job.store.address_of(place.key(job))
            progress.note(job.step, f"checkpoint {address} cannot be used ({error}): using the one before it")
            # Not the object: it may be another's, and a damaged one is replaced when a run comes here again.
            job.check()
            job.store.delete(place.key(job))
    return None


def _record(job: Job[Any], place: Place) -> Record:
    """Read the checkpoint of this place. Raises UserError for another version's, and one of DAMAGES for anything else."""
    content = json.loads(job.store.read(place.key(job)))
    if isinstance(content, dict) and (version := content.get("schema_version")) not in SCHEMA_VERSIONS:
        raise UserError(
            f"{job.store.address_of(place.key(job))}: another version of sida wrote this checkpoint (schema_version {version}, "
            f"not {_VERSIONS}): make a new attempt with --force {job.step}, or go on with the version that wrote it"
        )
    record = Record.model_validate(content)
    if not _belongs(record, place, job):
        raise Corrupt("it is damaged, or that of another place")
    return record


def _belongs(record: Record, place: Place, job: Job[Any]) -> bool:
    """Return whether it is the record of this place, as it was written.

    An older one is taken, so that a run goes on, where it has an identity and the name of its object tells the same images.
    """
    values = dict(record.values)
    if (proof := values.pop(CHECKSUM, None)) is not None:
        return bool(proof == _checksum(place.key(job), record.objects, values))
    return record.object.name == object_name(place.seen) and isinstance(values.get("identity"), dict)


def _checksum(key: str, objects: tuple[ObjectRef, ...], values: dict[str, Any]) -> str:
    first, *parts = map(asdict, objects)
    return digest_of([key, first, values, *parts])


def object_name(seen: int, rank: int = 0) -> str:
    """Return the name under which a process's tensors are stored."""
    return f"checkpoint-{seen}-{rank}.safetensors" if rank else f"checkpoint-{seen}.safetensors"


def _keys(job: Job[Any]) -> Sequence[str]:
    return job.store.list(f"{job.folder}/checkpoints/")


def _places(job: Job[Any], keys: Iterable[str]) -> list[Place]:
    """Return all checkpoints among the keys, oldest first."""
    names = (key.removeprefix(f"{job.folder}/") for key in keys)
    return sorted(Place(*found) for name in names if (found := checkpoint_at(name)) is not None)


# --- belonging ----------------------------------------------------------------------------------------------------


def identity_of(job: Job[Any]) -> dict[str, Any]:
    """Field path -> value, of the recipe's parts that decide a distillation's numbers and of its inputs' digests."""
    recipe = job.recipe
    parts = {
        "method": recipe.method.model_dump(mode="json"),
        "evaluation": recipe.evaluation.model_dump(
            mode="json", include={"selection_images", "selection_every", "stop_after", "stop_at_noise"}
        ),
        "teacher.network": recipe.teacher.network.model_dump(mode="json"),
        "inputs": {name: ref.digest for name, ref in sorted(job.spec.inputs.items())},
    }
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def refuse_other(saved: dict[str, Any], mine: dict[str, Any], job: Job[Any], seen: int) -> None:
    """Raise UserError naming the first field in which the recipe differs from the checkpoint's.

    A field that the checkpoint does not know (it is older than the field) counts as having its default.
    """
    for path in [*mine, *(path for path in saved if path not in mine)]:
        before, now = saved.get(path, _default(path)), mine.get(path, ABSENT)
        if before != now:
            raise UserError(
                f"recipe {job.recipe.name}: {path} is {_shown(now)}, but the checkpoint at {seen:,} images was made with "
                f"{_shown(before)}: set it back, or make a new attempt with --force {job.step}"
            )


def _default(path: str) -> Any:
    part, _, name = path.partition(".")
    models: dict[str, type[BaseModel]] = {"method": Method, "evaluation": Evaluation}
    model = models.get(part)
    field = model.model_fields.get(name) if model is not None else None
    return ABSENT if field is None or field.is_required() else field.get_default()


def _shown(value: Any) -> str:
    return "not there" if value is ABSENT else repr(value)
