"""Checkpoints: everything a run needs to continue bit for bit, as float32 safetensors plus JSON in the store.

    <job>/checkpoints/<images seen>.json    what it holds and which object; created once the object is whole
    objects/...safetensors                  the tensors, content-addressed

The newest checkpoint whose object is whole counts. Older ones are removed only after the new one is in place.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sida import progress
from sida.errors import Corrupt, NotFound
from sida.stores.base import ObjectRef, fetch_object
from sida.training.job import Job


@dataclass(frozen=True)
class Checkpoint:
    """``state``: small JSON values (images seen, best score, curve); ``tensors``: named tensors."""

    state: dict[str, Any]
    tensors: dict[str, Tensor]


def _folder(job: Job) -> str:
    return f"{job.folder}/checkpoints"


def save(job: Job, seen: int, checkpoint: Checkpoint, keep: int) -> None:
    """Publish a checkpoint of this job, then remove all but the newest ``keep``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"checkpoint-{seen}.safetensors"
        save_file({name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}, path)
        ref = job.put(path, path.name)
    content = {"object": [ref.name, ref.size, ref.sha256], "state": checkpoint.state}
    job.publish(f"checkpoints/{seen:012d}.json", json.dumps(content).encode())
    for key in _keys(job)[:-keep]:
        old = ObjectRef(*json.loads(job.store.read(key))["object"])
        job.store.delete(key)
        if old.sha256 != ref.sha256:
            job.store.delete(old.key)


def newest(job: Job) -> Checkpoint | None:
    """The newest whole checkpoint; a damaged one is reported and the one before it used."""
    for key in reversed(_keys(job)):
        try:
            content = json.loads(job.store.read(key))
            path = fetch_object(job.store, ObjectRef(*content["object"]))
        except (Corrupt, NotFound, ValueError) as error:
            if job.processes.first:
                progress.note(
                    job.step, f"checkpoint {key.rsplit('/', 1)[-1]} cannot be used ({error}): trying an older one"
                )
            continue
        return Checkpoint(content["state"], load_file(path))
    return None


def _keys(job: Job) -> list[str]:
    return [key for key in job.store.list(f"{_folder(job)}/") if key.endswith(".json")]
