"""How work stands in a queue of Kueue: read from its Workload, and from those that wait in the same queue.

The shapes are those of Kueue 0.19 (kueue.x-k8s.io/v1beta2), as seen on a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sida.launch.pod_state import Waiting, condition, line_of

GROUP, VERSION, PLURAL = "kueue.x-k8s.io", "v1beta2", "workloads"
_NEVER = ("Inadmissible", "Misconfigured", "ExceedsMaxQuota", "NoMatchingFlavor")  # why no quota is reserved
_TOO_LARGE = "> maximum capacity"  # the same, of versions without a reason of its own
_ORDERED_BY = ("AdmissionCheck", "PodsReadyTimeout")  # whoever was evicted for it waits behind those that came since


def workload_of(owner: str, workloads: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the Workload that Kueue made of the object with this uid; None where there is none."""
    for workload in workloads:
        if any(reference.get("uid") == owner for reference in workload["metadata"].get("ownerReferences") or []):
            return workload
    return None


def place_of(workload: dict[str, Any], workloads: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Return (place, how many wait) in its LocalQueue: by priority, then by age, as Kueue orders them."""
    queue = (workload.get("spec") or {}).get("queueName")
    waiting = sorted(
        (one for one in workloads if _is_pending(one) and (one.get("spec") or {}).get("queueName") == queue), key=_order
    )
    names = [one["metadata"]["name"] for one in waiting]
    return names.index(workload["metadata"]["name"]) + 1, len(names)


def waiting_in_queue(name: str, owner: str, queue: str, workloads: Sequence[dict[str, Any]]) -> Waiting:
    """Say why a suspended object does not begin, with its place. ``workloads``: all of its namespace."""
    workload = workload_of(owner, workloads)
    if workload is None:
        return Waiting("queue", name, f"Kueue has not put it into {queue} yet")
    status, spec = workload.get("status") or {}, workload.get("spec") or {}
    evicted = condition(status, "Evicted")
    if spec.get("active") is False:
        why = f": {line_of(evicted.get('message'))}" if evicted else ""
        return Waiting("unqueued", name, f"its Workload {workload['metadata']['name']} is not active{why}")
    if condition(status, "Admitted"):
        return Waiting("queue", name, f"admitted from {queue}: it begins now")
    if condition(status, "QuotaReserved"):
        return Waiting("queue", name, f"{queue} has room for it{_checks(status)}")
    if condition(status, "Finished"):
        return Waiting("queue", name, f"its Workload {workload['metadata']['name']} has ended")
    refused: dict[str, Any] = next((c for c in status.get("conditions") or [] if c.get("type") == "QuotaReserved"), {})
    reason, message = str(refused.get("reason") or ""), _short(refused.get("message"))
    if reason in _NEVER or _TOO_LARGE in message:
        return Waiting("unqueued", name, message)
    place, count = place_of(workload, workloads)
    where = f"place {place} of {count} in {queue}"
    if evicted is not None:
        return Waiting("preempted", name, line_of(f"{_short(evicted.get('message'))}; {where}"))
    return Waiting("queue", name, line_of(f"{where}{f': {message}' if message else ''}"))


def _is_pending(workload: dict[str, Any]) -> bool:
    status, spec = workload.get("status") or {}, workload.get("spec") or {}
    over = condition(status, "QuotaReserved") or condition(status, "Finished")
    return over is None and spec.get("active") is not False


def _order(workload: dict[str, Any]) -> tuple[int, str, str]:
    evicted = condition(workload.get("status") or {}, "Evicted") or {}
    since = evicted.get("lastTransitionTime") if evicted.get("reason") in _ORDERED_BY else None
    metadata, priority = workload["metadata"], int((workload.get("spec") or {}).get("priority") or 0)
    return -priority, str(since or metadata.get("creationTimestamp") or ""), str(metadata.get("uid") or "")


def _checks(status: dict[str, Any]) -> str:
    """``: waiting for the check prov (Pending: no node yet)``."""
    waiting = [check for check in status.get("admissionChecks") or [] if check.get("state") != "Ready"]
    said = [f"{check.get('name')} ({check.get('state')}: {line_of(check.get('message'))})" for check in waiting]
    return f": waiting for the check {', '.join(said)}" if said else ""


def _short(message: Any) -> str:
    """Kueue's words without uids and paths, which name nothing that a reader knows."""
    return re.sub(r" \(UID: [^)]*\)|; preemptor path: .*$", "", line_of(message))
