"""A job: work for the processes of torchrun, described by an object in the store.

The launching step writes ``jobs/<step>/<key>/<attempt>/spec.json``, starts the workers and reads ``result.json`` beside it, which
rank 0 publishes last, or ``error.json``, by whichever failed first. SIDA_LAUNCHER decides where they run: in processes of this
machine, or in a TrainJob. The workers are the same: they need the store and the spec's key, nothing else. The log of a TrainJob
that has ended, its last MiB, lies beside it as ``log.txt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sida import progress, records
from sida.errors import NotFound, SidaError
from sida.launch.base import Launcher, Work
from sida.launch.cluster import Cluster
from sida.launch.local import LocalLauncher
from sida.launch.log import end_of_log
from sida.launch.manifest import job_name, train_job
from sida.launch.nodes import Nodes, NodesLauncher
from sida.launch.target import parse_target
from sida.launch.trainjob import TrainJobLauncher
from sida.launch.worker_error import error_key, read_error
from sida.settings import settings

if TYPE_CHECKING:
    from sida.recipe import Execution
    from sida.steps import Context


def job_folder(context: Context) -> str:
    """Where the job of this attempt keeps its spec, checkpoints and result."""
    return f"jobs/{context.step.name}/{context.key}/{context.attempt}"


def run_job(context: Context, kind: str, spec: Mapping[str, Any], execution: Execution) -> dict[str, Any]:
    """Run the workers to the end and return what they published; a job that had finished before is adopted.

    Raises what the launcher raises: SidaError with the worker's own line and the log's path when they fail, Stopped when asked to.
    """
    folder = job_folder(context)
    if (result := _result(context, folder)) is not None:
        return result
    lease = {"key": context.lease.key, "number": context.lease.number}
    full = {"kind": kind, "folder": folder, "step": context.step.name, "lease": lease, **spec}
    log = settings().runs / "logs" / f"{context.step.name}-{context.key[:12]}-{context.attempt}.log"
    progress.log(context.step.name, log)
    job, store = f"{folder}/spec.json", context.store
    work = Work(
        step=context.step.name,
        job=job,
        processes=execution.processes,
        threads=execution.threads,
        log=log,
        check=context.lease.raise_if_lost,
        finished=lambda: _result(context, folder) is not None,
        error=lambda: read_error(store, job),
        keep_log=lambda: store.put(f"{folder}/log.txt", end_of_log(log)),
    )
    launcher, terms = _launcher(context, folder, work)
    content = json.dumps(full | terms, indent=1).encode()
    context.lease.guarded(lambda: store.put(job, content))
    store.delete(error_key(job))  # of an earlier start
    launcher.run(work)
    result = _result(context, folder)
    if result is None:
        raise SidaError(f"{kind}: the workers ended without a result: see {log}")
    return result


def _launcher(context: Context, folder: str, work: Work) -> tuple[Launcher, dict[str, Any]]:
    """Return the launcher that the settings name, and what the spec tells the workers of it."""
    here = settings()
    if here.launcher != "trainjob":
        nodes = Nodes.parse(here.nodes)
        return (NodesLauncher(work.log, context.store, nodes) if nodes else LocalLauncher(work.log)), {}
    target, run = parse_target(here.trainjob), records.current_run()
    name = job_name(work.step, folder, context.store.address)
    manifest = train_job(
        target, name=name, step=work.step, run=run, folder=folder, processes=work.processes, threads=work.threads
    )
    if run:
        context.store.put(f"runs/{run}/jobs/{work.step}.json", json.dumps({"folder": folder}).encode())
    cluster = Cluster(target.namespace, outage_seconds=target.outage_seconds)
    # The launcher that comes after us puts its own lease there, and the running workers go on under it.
    terms = {"launch": {"job": name, "abandoned_seconds": target.abandoned_seconds}}
    return TrainJobLauncher(cluster, manifest, target.on_termination), terms


def _result(context: Context, folder: str) -> dict[str, Any] | None:
    try:
        return json.loads(context.store.read(f"{folder}/result.json"))
    except NotFound:
        return None
