"""A job: work for the processes of torchrun, described by an object in the store.

The launching step writes ``jobs/<step>/<key>/<attempt>/spec.json``, starts the workers and reads ``result.json`` beside it, which
rank 0 publishes last. SIDA_LAUNCHER decides where they run: in processes of this machine, or in a TrainJob. The workers are the
same: they need the store and the spec's key, nothing else. The log of a TrainJob that has ended, its last MiB, lies beside it as
``log.txt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida import layout, progress, records
from sida.errors import NotFound, SidaError
from sida.launch.local import run_workers
from sida.launch.log import end_of_log
from sida.launch.nodes import Nodes, lead
from sida.settings import settings

if TYPE_CHECKING:
    from sida.recipe import Execution
    from sida.steps import Context


def job_folder(context: Context) -> str:
    """Where the job of this attempt keeps its spec, checkpoints and result."""
    return layout.job_folder(context.step.name, context.key, context.attempt)


def run_job(context: Context, kind: str, spec: Mapping[str, Any], execution: Execution) -> dict[str, Any]:
    """Run the workers to the end and return what they published; a job that had finished before is adopted.

    Raises SidaError with the worker's last line and the log's path when they fail, or when they were asked to stop.
    """
    folder = job_folder(context)
    if (finished := _result(context, folder)) is not None:
        return finished
    here = settings()
    lease = {"key": context.lease.key, "number": context.lease.number}
    full = {"kind": kind, "folder": folder, "step": context.step.name, "lease": lease, **spec}
    log = here.runs / "logs" / f"{context.step.name}-{context.key[:12]}-{context.attempt}.log"
    progress.log(context.step.name, log)
    launch = _in_trainjob if here.launcher == "trainjob" else _here
    if not launch(context, folder, full, log, execution):
        raise SidaError(f"{kind}: stopped on request; run again to continue from the last checkpoint")
    result = _result(context, folder)
    if result is None:
        raise SidaError(f"{kind}: the workers ended without a result: see {log}")
    return result


def _here(context: Context, folder: str, spec: dict[str, Any], log: Path, execution: Execution) -> bool:
    """In processes of this machine, or of this and other bare ones; False when they were asked to stop."""
    here = settings()
    _put_spec(context, folder, spec)
    log.parent.mkdir(parents=True, exist_ok=True)

    def run_here(nodes: tuple[Nodes, str] | None = None) -> int:
        return run_workers(
            "sida.training.worker",
            ["--job", f"{folder}/spec.json"],
            processes=here.workers or execution.processes,
            threads=execution.threads,
            log_path=log,
            environment={"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)},
            on_tick=context.lease.raise_if_lost,
            nodes=nodes,
        )

    if (machines := Nodes.parse(here.nodes)) is None:
        return run_here() == 0
    step, job = context.step.name, f"{folder}/spec.json"
    return lead(context.store, machines, step, job, lambda attempt: run_here((machines, attempt))) == 0


def _in_trainjob(context: Context, folder: str, spec: dict[str, Any], log: Path, execution: Execution) -> bool:
    """In a TrainJob; False when we were asked to stop."""
    from sida.launch.manifest import job_name, train_job
    from sida.launch.target import parse_target
    from sida.launch.trainjob import Following, run_trainjob

    target, run = parse_target(settings().trainjob), records.current_run()
    name = job_name(context.step.name, folder, context.store.address)
    manifest = train_job(
        target,
        name=name,
        step=context.step.name,
        run=run,
        folder=folder,
        processes=execution.processes,
        threads=execution.threads,
    )
    # The launcher that comes after us puts its own lease here, and the running workers go on under it.
    spec["launch"] = {"job": name, "abandoned_seconds": target.abandoned_seconds}
    _put_spec(context, folder, spec)
    if run:
        context.store.put(layout.run_job_key(run, context.step.name), json.dumps({"folder": folder}).encode())
    following = Following(
        step=context.step.name,
        target=target,
        manifest=manifest,
        log_path=log,
        on_tick=context.lease.raise_if_lost,
        finished=lambda: _result(context, folder) is not None,
        keep_log=lambda: context.store.put(f"{folder}/log.txt", end_of_log(log)),
    )
    return run_trainjob(following)


def _put_spec(context: Context, folder: str, spec: dict[str, Any]) -> None:
    content = json.dumps(spec, indent=1).encode()
    context.lease.guarded(lambda: context.store.put(f"{folder}/spec.json", content))


def _result(context: Context, folder: str) -> dict[str, Any] | None:
    try:
        return json.loads(context.store.read(f"{folder}/result.json"))
    except NotFound:
        return None
