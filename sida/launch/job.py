"""A job: work for the processes of torchrun, described by an object in the store.

The launching step writes ``jobs/<step>/<key>/<attempt>/spec.json``, starts the workers and reads ``result.json`` beside it, which
rank 0 publishes last, or ``error.json``, by whichever failed first. SIDA_LAUNCHER decides where they run: in processes of this
machine, or in a TrainJob. The workers are the same: they need the store and the spec's key, nothing else. The log of a TrainJob
that has ended, its last MiB, lies beside it as ``log.txt``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from sida import layout, progress, records
from sida.errors import NotFound, SidaError
from sida.launch.local import run_workers
from sida.launch.log import end_of_log
from sida.launch.nodes import Nodes, lead
from sida.launch.spec import AnySpec, JobFile, Launch, LeaseRef, O, Spec, parse_outcome
from sida.launch.worker_error import NAME as ERROR
from sida.launch.worker_error import read_error
from sida.settings import settings
from sida.steps import StepRun
from sida.steps.recipes import put_recipe

RESULT = "result.json"


def job_folder(run: StepRun) -> str:
    """Where the job of this attempt keeps its spec, checkpoints and result."""
    return layout.job_folder(run.step.name, run.key, run.attempt)


def run_job(run: StepRun, spec: Spec[O]) -> O:
    """Run the workers to the end and return what they published; a job that had finished before is adopted.

    Raises SidaError with the worker's last line and the log's path when they fail, or when they were asked to stop.
    """
    folder, kind = job_folder(run), run.step.name
    if (finished := _outcome(run, folder, spec)) is not None:
        return finished
    here = settings()
    job = JobFile(
        step=run.step.name,
        folder=folder,
        lease=LeaseRef(key=run.lease.key, number=run.lease.number),
        recipe=put_recipe(run.store, run.recipe),
        spec=cast(AnySpec, spec),
    )
    log = here.runs / "logs" / f"{run.step.name}-{run.key[:12]}-{run.attempt}.log"
    progress.log(run.step.name, log)
    launch = _in_trainjob if here.launcher == "trainjob" else _here
    if not launch(run, job, log):
        raise SidaError(f"{kind}: stopped on request; run again to continue from the last checkpoint")
    outcome = _outcome(run, folder, spec)
    if outcome is None:
        raise SidaError(f"{kind}: the workers ended without a result: see {log}")
    return outcome


def _here(run: StepRun, job: JobFile, log: Path) -> bool:
    """In processes of this machine, or of this and other bare ones; False when they were asked to stop."""
    here, folder, execution = settings(), job.folder, run.recipe.execution
    _put_job(run, job)
    log.parent.mkdir(parents=True, exist_ok=True)

    def run_here(nodes: tuple[Nodes, str] | None = None) -> int:
        run.store.delete(f"{folder}/{ERROR}")  # of an earlier start
        return run_workers(
            "sida.worker",
            ["--job", f"{folder}/spec.json"],
            processes=here.workers or execution.processes,
            threads=execution.threads,
            log_path=log,
            environment={"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)},
            on_tick=run.lease.raise_if_lost,
            nodes=nodes,
            error=lambda: read_error(run.store, folder),
        )

    if (machines := Nodes.parse(here.nodes)) is None:
        return run_here() == 0
    return (
        lead(run.store, machines, job.step, f"{folder}/spec.json", lambda attempt: run_here((machines, attempt))) == 0
    )


def _in_trainjob(run: StepRun, job: JobFile, log: Path) -> bool:
    """In a TrainJob; False when we were asked to stop."""
    from sida.launch.manifest import job_name, train_job
    from sida.launch.target import parse_target
    from sida.launch.trainjob import Following, run_trainjob

    target, run_id, folder = parse_target(settings().trainjob), records.current_run(), job.folder
    name = job_name(job.step, folder, run.store.address)
    manifest = train_job(
        target,
        name=name,
        step=job.step,
        run=run_id,
        folder=folder,
        processes=run.recipe.execution.processes,
        threads=run.recipe.execution.threads,
    )
    # The launcher that comes after us puts its own lease here, and the running workers go on under it.
    launch = Launch(job=name, abandoned_seconds=target.abandoned_seconds)
    _put_job(run, job.model_copy(update={"launch": launch}))
    run.store.delete(f"{folder}/{ERROR}")
    if run_id:
        run.store.put(layout.run_job_key(run_id, job.step), json.dumps({"folder": folder}).encode())
    following = Following(
        step=job.step,
        target=target,
        manifest=manifest,
        log_path=log,
        on_tick=run.lease.raise_if_lost,
        finished=lambda: run.store.exists(f"{folder}/{RESULT}"),
        error=lambda: read_error(run.store, folder),
        keep_log=lambda: run.store.put(f"{folder}/log.txt", end_of_log(log)),
    )
    return run_trainjob(following)


def _put_job(run: StepRun, job: JobFile) -> None:
    run.lease.guarded(lambda: run.store.put(f"{job.folder}/spec.json", job.to_json()))


def _outcome(run: StepRun, folder: str, spec: Spec[O]) -> O | None:
    key = f"{folder}/{RESULT}"
    try:
        return parse_outcome(spec, run.store.read(key), run.store.address_of(key))
    except NotFound:
        return None
