"""Distillation jobs of a few iterations on real digits, run in this process against a folder store."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sida import recipe as recipes
from sida.data.prepare import prepare_data
from sida.lease import acquire
from sida.recipe import Recipe
from sida.scoring.reference import reference_statistics
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.teachers.fetch import fetch_generator, fetch_teacher
from sida.training.job import Job
from sida.training.processes import Processes
from tests.conftest import ROOT

TEXT = """extends: tiny
name: few
method: {images: 256, batch: 32, loss_group: 8, generator_from: 32, adversarial_from: 64, decay_from: 128}
evaluation: {selection_images: 40, selection_every: 64}
execution: {checkpoint_every: 32, sampling_batch: 20}
"""


def recipe(folder: Path, changes: str = "") -> Recipe:
    """The recipe of eight iterations, with changes as YAML of another recipe that extends it."""
    shutil.copy(ROOT / "tests" / "recipes" / "tiny.yaml", folder / "tiny.yaml")
    (folder / "few.yaml").write_text(TEXT)
    path = folder / "changed.yaml"
    path.write_text(f"extends: few\nname: few\n{changes}")
    return recipes.load(str(path))


CPU = torch.device("cpu")


@dataclass
class Bench:
    """Store and inputs, from which jobs are made."""

    folder: Path
    store: ObjectStore
    inputs: dict[str, str]
    device: torch.device = CPU

    def job(self, changes: str = "", name: str = "job") -> Job:
        """A job that continues whatever another of this name has left, under a lease of its own."""
        lease = acquire(self.store, f"steps/{name}", ttl=600)
        lease.release()
        spec: dict[str, Any] = {
            "kind": "distill",
            "folder": f"jobs/distill/{name}/1",
            "step": "distill",
            "lease": {"key": lease.key, "number": lease.number},
            "recipe": recipe(self.folder, changes).model_dump(mode="json"),
            "inputs": self.inputs,
        }
        return Job(spec, self.store, Processes(0, 1, self.device))


def bench(folder: Path, changes: str = "", start: bool = False) -> Bench:
    """Everything that a distillation needs, in the store that the settings name."""
    chosen = recipe(folder, changes)
    data = prepare_data(recipe=chosen)
    teacher = fetch_teacher(recipe=chosen)
    (folder / "dataset.json").write_bytes(data.manifest.to_json())
    reference = reference_statistics(recipe=chosen, dataset=str(folder / "dataset.json"))
    begin = fetch_generator(recipe=chosen) if start else teacher
    made = {"teacher": teacher, "start": begin, "dataset": data, "reference": reference}
    inputs = {name: published.manifest.to_json().decode() for name, published in made.items()}
    return Bench(folder, open_store(settings().store), inputs)
