"""How a TrainJob stands, by its conditions, and how it is ended."""

from __future__ import annotations

from typing import Any

from sida.launch.cluster import Cluster

SUSPENDED_BY = "sida/suspended-by-launcher"  # annotation: a launcher suspended it, a launcher may let it go on


def end_job(cluster: Cluster, name: str, uid: str, wish: str) -> None:
    """Delete a TrainJob, or suspend it, which ends its pods and keeps the object; "keep" does nothing."""
    if wish == "delete":
        cluster.delete(name, uid)
    elif wish == "suspend":
        cluster.patch(name, {"metadata": {"annotations": {SUSPENDED_BY: "true"}}, "spec": {"suspend": True}})


def ended(job: dict[str, Any]) -> tuple[str, str] | None:
    """("Complete" or "Failed", reason) of a job that has ended."""
    status = job.get("status") or {}
    for kind in ("Complete", "Failed"):
        if (found := condition(status, kind)) is not None:
            return kind, str(found.get("reason", ""))
    return None


def job_in_words(job: dict[str, Any]) -> str:
    """Say how it stands: ``TrainJob sida-distill-1a2b: its pods run``."""
    status = job.get("status") or {}
    if (end := ended(job)) is not None:
        state = f"{end[0]}{f' ({end[1]})' if end[1] else ''}"
    elif condition(status, "Suspended") is not None:
        state = "suspended, or waiting in a queue"
    else:
        ready = any(counts.get("ready") for counts in status.get("jobsStatus") or [])
        state = "its pods run" if ready else "starting"
    return f"TrainJob {job['metadata']['name']}: {state}"


def condition(status: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The condition of a kind, if it is true."""
    found = (c for c in status.get("conditions") or [] if c.get("type") == kind and c.get("status") == "True")
    return next(found, None)
