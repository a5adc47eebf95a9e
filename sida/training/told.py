"""How the owners of a checkpoint's parts tell the first process that theirs are in the store: by a file each in the job's folder.

A start of the job that ended early may have left some: each file names the saving that it is of. What a checkpoint that was never
published left is removed with the next one that is, or by ``gc``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from sida.errors import Corrupt, NotFound
from sida.layout import checkpoint_part_at, checkpoint_part_name
from sida.manifests import Part
from sida.stores.base import ObjectRef
from sida.stores.objects import verify_object
from sida.worker.job import Job


class Told(Part):
    """A part of a checkpoint is whole; ``saving`` is its own for each call of ``Writer.save``."""

    schema_version: Literal[1] = 1
    saving: str
    object: ObjectRef


class PartFile(NamedTuple):
    """A file of the job's folder in which a process told of its part."""

    key: str
    seen: int
    rank: int


def tell(job: Job[Any], seen: int, saving: str, ref: ObjectRef) -> None:
    """Say that this process's part is in the store, after it was read back (the first process's is, with the checkpoint)."""
    if not job.processes.first:
        verify_object(job.store, ref)
    told = Told(saving=saving, object=ref)
    name = checkpoint_part_name(seen, job.fence, job.processes.rank)
    job.publish(name, json.dumps(told.model_dump()).encode())


def told_parts(job: Job[Any], seen: int, saving: str, ranks: Iterable[int]) -> dict[int, ObjectRef]:
    """Return the parts of this saving that are whole, by their owners' ranks."""
    waiting, parts = set(ranks), {}
    for file in part_files(job, job.store.list(f"{job.folder}/checkpoints/parts/")) if waiting else ():
        if file.seen == seen and file.rank in waiting:
            told = read_told(job, file)
            if told is not None and told.saving == saving and _is_there(job, told.object):
                parts[file.rank] = told.object
    return parts


def part_files(job: Job[Any], keys: Iterable[str]) -> Iterator[PartFile]:
    """Yield those of the keys that are such files."""
    for key in keys:
        if (found := checkpoint_part_at(key.removeprefix(f"{job.folder}/"))) is not None:
            yield PartFile(key, found[0], found[2])


def read_told(job: Job[Any], file: PartFile) -> Told | None:
    """Return what a file tells; None where nothing, or nothing of ours, is there."""
    with suppress(Corrupt, NotFound, ValueError, TypeError, RecursionError):
        return Told.model_validate_json(job.store.read(file.key))
    return None


def _is_there(job: Job[Any], ref: ObjectRef) -> bool:
    with suppress(NotFound):
        return job.store.stat(ref.key).size == ref.size
    return False
