"""Workloads as Kueue 0.19 makes them, as far as we read them."""

from __future__ import annotations

from typing import Any

PENDING = (
    "couldn't assign flavors to pod set node: insufficient unused quota for cpu in flavor default, 150m more needed"
)
PREEMPTED = (
    "Preempted to accommodate a workload (UID: 1f, JobUID: 2e) due to prioritization in the ClusterQueue; preemptor path: /sida; "
    "preemptee path: /sida"
)


def workload(
    owner: str,
    *conditions: tuple[str, str, str, str],
    made: int = 0,
    priority: int = 0,
    queue: str = "gpu",
    **spec: Any,
) -> dict[str, Any]:
    """The Workload of a TrainJob with this uid. ``conditions``: type, status, reason, message; ``made``: seconds past the hour."""
    metadata = {
        "name": f"trainjob-{owner}",
        "namespace": "work",
        "uid": f"w-{owner}",
        "creationTimestamp": f"2026-11-29T13:00:{made:02d}Z",
        "labels": {"kueue.x-k8s.io/job-uid": owner},
        "ownerReferences": [{"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "uid": owner}],
    }
    names = ("type", "status", "reason", "message")
    status = [dict(zip(names, one, strict=True)) | {"lastTransitionTime": "2026-11-29T13:00:30Z"} for one in conditions]
    spec = {"active": True, "queueName": queue, "priority": priority, "podSets": []} | spec
    return {"metadata": metadata, "spec": spec, "status": {"conditions": status}}


def pending(owner: str, message: str = PENDING, reason: str = "Pending", **more: Any) -> dict[str, Any]:
    """One that waits for quota."""
    return workload(owner, ("QuotaReserved", "False", reason, message), **more)


def preempted(owner: str, **more: Any) -> dict[str, Any]:
    """One that had its place, and waits again."""
    again = ("QuotaReserved", "False", "Pending", PENDING), ("Admitted", "False", "NoReservation", "no reservation")
    return workload(owner, *again, ("Evicted", "True", "Preempted", PREEMPTED), **more)


def admitted(owner: str, **more: Any) -> dict[str, Any]:
    """One that may run."""
    return workload(owner, ("QuotaReserved", "True", "QuotaReserved", ""), ("Admitted", "True", "Admitted", ""), **more)
