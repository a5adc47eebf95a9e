"""Jobs for tests: their files, and manifests in a store."""

from __future__ import annotations

from typing import Any

from sida.launch.job import job_folder
from sida.launch.spec import JobFile, Launch, LeaseRef, ManifestRef, Spec
from sida.manifests import Manifest
from sida.recipe import Recipe
from sida.steps import StepRun
from sida.steps.recipes import put_recipe
from sida.stores import ObjectStore
from sida.stores.lease import acquire
from sida.worker.job import Job
from sida.worker.main import work
from sida.worker.ranks import Processes


def stored(store: ObjectStore, manifest: Manifest[Any]) -> ManifestRef:
    """The manifest, published or not, where a job finds it."""
    key = f"manifests/{manifest.digest}.json"
    store.put(key, manifest.to_json())
    return ManifestRef(key=key, digest=manifest.digest)


def job_file(
    store: ObjectStore, recipe: Recipe, spec: Spec[Any], folder: str, lease: LeaseRef, launch: Launch | None = None
) -> JobFile:
    """What the launcher would write."""
    return JobFile(
        step=folder.split("/")[1],
        folder=folder,
        lease=lease,
        recipe=put_recipe(store, recipe),
        spec=spec,
        launch=launch,
    )


def led(store: ObjectStore, key: str) -> LeaseRef:
    """A lease that was held for a moment."""
    with acquire(store, key, ttl=600, wait=0.0, note=lambda text: None) as lease:
        return LeaseRef(key=lease.key, number=lease.number)


def run_here(run: StepRun, spec: Spec[Any], processes: Processes) -> Any:
    """In place of ``sida.launch.job.run_job``: the same worker function in this process, seconds less."""
    lease = LeaseRef(key=run.lease.key, number=run.lease.number)
    file = job_file(run.store, run.recipe, spec, job_folder(run), lease)
    outcome = work(Job(JobFile.model_validate_json(file.to_json()), run.recipe, run.store, processes))
    assert outcome is not None
    return type(outcome).model_validate_json(outcome.model_dump_json())
