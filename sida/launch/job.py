"""A job: work for several processes, described by an object in the store.

The launching step writes ``jobs/<step>/<key>/<attempt>/spec.json``, starts the workers and reads ``result.json`` beside it, which
rank 0 publishes last, or ``error.json``, by whichever failed first. SIDA_LAUNCHER decides where they run: in processes of this
machine, or in a TrainJob. The workers are the same: they need the store and the spec's key, nothing else. The log of a TrainJob
that has ended, its last MiB, lies beside it as ``log.txt``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

from sida import layout, progress, records
from sida.cancels import asked_in_words
from sida.errors import Corrupt, NotFound, SidaError, Unavailable
from sida.launch import grace
from sida.launch.base import Launcher, Work
from sida.launch.cluster import Cluster
from sida.launch.local import LocalLauncher
from sida.launch.nodes import LeadingLauncher, Nodes
from sida.launch.spec import AnySpec, JobFile, Launch, LeaseRef, O, Spec, parse_outcome
from sida.launch.target import parse_target
from sida.launch.trainjob import TrainJobLauncher
from sida.launch.trainjob_manifest import job_name, train_job
from sida.launch.worker_error import error_key, read_error
from sida.manifests import objects_in
from sida.settings import settings
from sida.steps import StepRun
from sida.steps.log import end_of_log
from sida.steps.recipes import put_recipe
from sida.stores.objects import verify_object

RESULT = "result.json"


def job_folder(run: StepRun) -> str:
    """Return where the job of this attempt keeps its spec, checkpoints and result."""
    return layout.job_folder(run.step.name, run.key, run.attempt)


WrittenBytes = Callable[[int, int], int]  # of a checkpoint, by one process; given all processes, and those of a machine


def _none(world: int, of_a_machine: int) -> int:
    return 0


def run_job(run: StepRun, spec: Spec[O], written_bytes: WrittenBytes = _none) -> O:
    """Run the workers to the end and return what they published; a job that had finished before is adopted.

    Only a result that is whole, and of this very job, is believed; any other is made again.

    ``written_bytes`` tells how much of a checkpoint a process writes, which decides how long pods have to end.
    Raises what the launcher raises: SidaError with the worker's own line and the log's path when they fail, Stopped when asked to.
    """
    folder, step, store, execution = job_folder(run), run.step.name, run.store, run.recipe.execution
    log = settings().runs / "logs" / f"{step}-{run.key[:12]}-{run.attempt}.log"
    job = f"{folder}/spec.json"
    work = Work(
        step=step,
        job=job,
        processes=execution.processes,
        threads=execution.threads,
        log=log,
        check=run.lease.raise_if_lost,
        finished=lambda: store.exists(f"{folder}/{RESULT}"),
        error=lambda: read_error(store, job),
        cancelled=lambda: asked_in_words(store, records.current_run()),
        keep_log=lambda: store.put(f"{folder}/log.txt", end_of_log(log)),
    )
    if (outcome := _of_damaged_attempt(run, spec)) is not None:
        return outcome
    launcher, launch = _launcher(run, folder, work, written_bytes)
    try:
        if (outcome := _whole_outcome(run, folder, spec)) is not None:
            launcher.settle(work)
            return outcome
    except (Corrupt, NotFound) as error:
        run.note(f"what its job left cannot be used ({error}): making it again")
        run.lease.guarded(lambda: store.delete(f"{folder}/{RESULT}"))
    progress.log(step, log)
    file = JobFile(
        step=step,
        folder=folder,
        lease=LeaseRef(key=run.lease.key, number=run.lease.number),
        recipe=put_recipe(store, run.recipe),
        spec=cast(AnySpec, spec),
        launch=launch,
    )
    run.lease.guarded(lambda: store.put(job, file.to_json()))
    store.delete(error_key(job))  # of an earlier start
    launcher.run(work)
    outcome = _outcome(run, folder, spec)
    if outcome is None:
        raise SidaError(f"{step}: the workers ended without a result: see {log}")
    return outcome


def _of_damaged_attempt(run: StepRun, spec: Spec[O]) -> O | None:
    """Return what the job of the newest attempt published, where its manifest alone is damaged and the objects prove the rest.

    None for an attempt that is wanted anew, and where anything is missing, damaged, or of another task.
    """
    store = run.store
    if run.anew or run.attempt == 1 or store.exists(f"{job_folder(run)}/spec.json"):  # this one has begun
        return None
    folder = layout.job_folder(run.step.name, run.key, run.attempt - 1)
    try:
        outcome = _whole_outcome(run, folder, spec)
        if outcome is None or not spec.proven(outcome, lambda ref: store.read(ref.key)):
            return None
    except Unavailable:
        raise
    except SidaError:
        return None
    run.note(f"what the job of attempt {run.attempt - 1} made is whole: taken from there")
    return outcome


def _launcher(run: StepRun, folder: str, work: Work, written_bytes: WrittenBytes) -> tuple[Launcher, Launch | None]:
    """Return the launcher that the settings name, and what it tells the workers of itself."""
    here = settings()
    if here.launcher != "trainjob":
        nodes = Nodes.parse(here.nodes)
        return (LeadingLauncher(work.log, nodes, run.store) if nodes else LocalLauncher(work.log)), None
    target, run_id = parse_target(here.trainjob), records.current_run()
    name = job_name(work.step, folder, run.store.address)
    per_node = target.per_node(work.processes)
    manifest = train_job(
        target,
        name=name,
        step=work.step,
        run=run_id,
        folder=folder,
        processes=work.processes,
        threads=work.threads,
        # In a queue the runtime's grace counts, which `sida runtime` makes the profile's.
        grace_seconds=target.grace_seconds
        or (grace.FLOOR_SECONDS if target.queue else grace.planned(written_bytes(target.nodes * per_node, per_node))),
    )
    if run_id:
        run.store.put(layout.run_job_key(run_id, work.step), json.dumps({"folder": folder}).encode())
    cluster = Cluster(target.namespace, outage_seconds=target.outage_seconds)
    # The launcher that comes after us puts its own lease there, and the running workers go on under it.
    launch = Launch(job=name, abandoned_seconds=target.abandoned_seconds)
    return TrainJobLauncher(cluster, manifest, target.on_termination), launch


def _whole_outcome(run: StepRun, folder: str, spec: Spec[O]) -> O | None:
    """Return what a job published, its objects read whole; None where it has not. Raises Corrupt and NotFound for damage."""
    outcome = _outcome(run, folder, spec)
    for ref in objects_in(outcome):
        verify_object(run.store, ref)
    return outcome


def _outcome(run: StepRun, folder: str, spec: Spec[O]) -> O | None:
    key = f"{folder}/{RESULT}"
    try:
        content = run.store.read(key)
    except NotFound:
        return None
    return parse_outcome(folder, spec, content, run.store.address_of(key))
