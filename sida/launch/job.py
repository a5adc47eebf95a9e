"""A job: work for the processes of torchrun, described by an object in the store.

The launching step writes ``jobs/<key>/<attempt>/spec.json``, starts the workers and reads ``result.json`` beside it, which rank 0
publishes last. The same workers run on a cluster: they need the store and the spec's key, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sida.errors import NotFound, SidaError
from sida.launch.local import run_workers
from sida.launch.nodes import Nodes, lead
from sida.settings import settings

if TYPE_CHECKING:
    from sida.recipe import Execution
    from sida.steps import Context


def job_folder(context: Context) -> str:
    """Where the job of this attempt keeps its spec, checkpoints and result."""
    return f"jobs/{context.step.name}/{context.key}/{context.attempt}"


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
    context.store.put(f"{folder}/spec.json", json.dumps(full, indent=1).encode())
    log = here.runs / "logs" / f"{context.step.name}-{context.key[:12]}-{context.attempt}.log"
    log.parent.mkdir(parents=True, exist_ok=True)

    def run_here(nodes: tuple[Nodes, str] | None = None) -> int:
        return run_workers(
            "sida.training.worker",
            ["--job", f"{folder}/spec.json"],
            processes=here.workers or execution.processes,
            threads=execution.threads,
            log_path=log,
            environment={"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)},
            on_tick=context.lease.check,
            nodes=nodes,
        )

    if (machines := Nodes.parse(here.nodes)) is None:
        status = run_here()
    else:
        step, job = context.step.name, f"{folder}/spec.json"
        status = lead(context.store, machines, step, job, lambda attempt: run_here((machines, attempt)))
    if status:
        raise SidaError(f"{kind}: stopped on request; run again to continue from the last checkpoint")
    result = _result(context, folder)
    if result is None:
        raise SidaError(f"{kind}: the workers ended without a result: see {log}")
    return result


def _result(context: Context, folder: str) -> dict[str, Any] | None:
    try:
        return json.loads(context.store.read(f"{folder}/result.json"))
    except NotFound:
        return None
