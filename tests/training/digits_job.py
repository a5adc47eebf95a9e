"""Distillation jobs of a few iterations on real digits, run in this process against a folder store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sida import recipe as recipes
from sida.data.prepare import prepare_data
from sida.launch.spec import DistillSpec, ManifestRef, Spec
from sida.manifests import Manifest
from sida.recipe import Recipe
from sida.scoring.reference import reference_statistics
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.teachers.fetch import fetch_generator, fetch_teacher
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.conftest import ROOT
from tests.jobs import job_file, led

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
    inputs: dict[str, Manifest[Any]]
    device: torch.device = CPU

    def ref(self, name: str) -> ManifestRef:
        """An input, as jobs name it."""
        return ManifestRef.of(self.inputs[name])

    def job(self, changes: str = "", name: str = "job", spec: Spec[Any] | None = None) -> Job[Any]:
        """A job that continues whatever another of this name has left, under a lease of its own; a distillation by default."""
        spec = spec or DistillSpec(**{input: self.ref(input) for input in ("teacher", "start", "dataset", "reference")})
        chosen = recipe(self.folder, changes)
        file = job_file(self.store, chosen, spec, f"jobs/distill/{name}/1", led(self.store, f"steps/{name}"))
        return Job(file, chosen, self.store, Processes(0, 1, self.device))


def bench(folder: Path, changes: str = "", start: bool = False) -> Bench:
    """Everything that a distillation needs, in the store that the settings name."""
    chosen = recipe(folder, changes)
    data = prepare_data(recipe=chosen)
    teacher = fetch_teacher(recipe=chosen)
    reference = reference_statistics(recipe=chosen, dataset=data.manifest)
    begin = fetch_generator(recipe=chosen) if start else teacher
    made = {"teacher": teacher, "start": begin, "dataset": data, "reference": reference}
    inputs = {name: outcome.manifest for name, outcome in made.items()}
    return Bench(folder, open_store(settings().store), inputs)


@contextmanager
def bench_in(folder: Path) -> Iterator[Bench]:
    """The same in a store of its own, while the settings name it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SIDA_EVENTS", "SIDA_NODES"):
            patch.delenv(name, raising=False)
        patch.setenv("SIDA_STORE", f"file://{folder / 'store'}")
        patch.setenv("SIDA_CACHE", str(folder / "cache"))
        torch.set_num_threads(1)
        yield bench(folder)
