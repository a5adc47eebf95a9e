"""How a TrainJob stands: by its conditions and counts, its pods, and warnings about what it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sida.launch.annotations import in_words
from sida.launch.pod_state import Waiting, complaint, condition, count_of, line_of, newest_pods, waiting_of
from sida.launch.queue import waiting_in_queue
from sida.launch.trainjob_manifest import QUEUE

SUSPENDED_BY = "sida/suspended-by-launcher"  # annotation: a launcher suspended it, a launcher may let it go on


def ended(job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the condition "Complete" or "Failed" of a job that has ended."""
    status = job.get("status") or {}
    return condition(status, "Complete") or condition(status, "Failed")


def suspended(job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the condition of a job that is suspended, which also is how Kueue makes one wait."""
    return condition(job.get("status") or {}, "Suspended")


def queue_of(job: dict[str, Any]) -> str:
    """Return the queue of Kueue that it was given to; empty where there is none."""
    return str((job["metadata"].get("labels") or {}).get(QUEUE) or "")


def pods_run(job: dict[str, Any]) -> bool:
    """Return whether its own counts say so."""
    return any(counts.get("ready") for counts in (job.get("status") or {}).get("jobsStatus") or [])


def job_in_words(job: dict[str, Any]) -> str:
    """Say how it stands: ``TrainJob sida-distill-1a2b: its pods run, 1,024 of 8,192 images, 310/s, 2:38 left``."""
    end = ended(job)
    if end is not None:
        reason = end.get("reason")
        state = f"{end['type']} ({reason})" if reason else end["type"]
    elif suspended(job) is not None:
        queue = queue_of(job)
        state = f"waits in queue {queue}" if queue else "suspended"
    else:
        state = "its pods run" if pods_run(job) else "starting"
    known = in_words(job, ended=end is not None)
    return f"TrainJob {job['metadata']['name']}: {state}{f', {known}' if known else ''}"


class Division(NamedTuple):
    """How a job's processes are shared out."""

    nodes: int
    per_node: int

    def __str__(self) -> str:
        """``2 nodes of 4 processes``."""
        nodes, per_node = self
        return f"{nodes} node{'s' * (nodes != 1)} of {per_node} process{'es' * (per_node != 1)}"


def division_of(job: dict[str, Any]) -> Division:
    """Return how a TrainJob divides its work, which nobody can change once it is made (Trainer 2.3)."""
    trainer = (job.get("spec") or {}).get("trainer") or {}
    return Division(*(count_of(str(trainer.get(name))) or 1 for name in ("numNodes", "numProcPerNode")))


def waiting_job(
    job: dict[str, Any],
    pods: Sequence[dict[str, Any]] | None,
    events: Sequence[dict[str, Any]] = (),
    workloads: Sequence[dict[str, Any]] | None = None,
) -> Waiting | None:
    """Return why it does not begin, or not with all its pods; None for one that runs or has ended.

    ``pods`` are None where they cannot be looked at: then its own counts have to do; likewise ``workloads``, those of Kueue.
    """
    name = job["metadata"]["name"]
    makers = name, f"{name}-node-0"  # in whose name pods are made: TrainJob and JobSet, and the Job of all nodes
    if ended(job) is not None:
        return None
    if (waits := suspended(job)) is not None:
        queue = queue_of(job)
        if queue and workloads is not None:
            return waiting_in_queue(name, str(job["metadata"].get("uid")), queue, workloads)
        return Waiting("queue", name, line_of(waits.get("message")))
    if pods is None:
        return None if pods_run(job) else complaint(events, makers) or Waiting("starting", name, "")
    nodes = division_of(job).nodes
    newest = newest_pods(pods)
    waiting = [reason for pod in newest if (reason := waiting_of(pod, events)) is not None]
    running = len(newest) - len(waiting)
    if len(newest) < nodes:
        missing = Waiting("starting", name, f"{len(newest)} of {nodes} pods are there")
        waiting.append(complaint(events, makers) or missing)
    if not waiting:
        return None
    worst = min(waiting, key=lambda reason: reason.passes)
    return replace(worst, among=f"{running} of {nodes} pods run" if 0 < running < nodes else "")
