"""What pods and events say of work that waits or has failed: typed, from Kubernetes' own objects. The words are in ``words``.

The shapes are those of Kubernetes 1.35 with containerd, JobSet 0.12 and Trainer 2.3, as seen on a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sida.launch.trainjob_manifest import RESTART

Kind = Literal[
    "image",
    "room",
    "quota",
    "config",
    "volume",
    "policy",
    "runtime",
    "container",
    "queue",
    "preempted",
    "unqueued",
    "starting",
]
Cause = Literal["error", "memory", "exit", "deadline", "evicted", "deleted", "driver", "never", "unknown"]

PASSING: tuple[Kind, ...] = (
    "queue",
    "preempted",
    "starting",
)  # of all others only somebody's hand, or others' end, is the end
_MAIN = ("main", "node", "step")  # containers that do the work
_STARTING = ("ContainerCreating", "PodInitializing")
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_EVICTED = (
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Terminated",
    "Preempting",
    "UnexpectedAdmissionError",
    "NodeAffinity",
)
_NO_SECRET = re.compile(
    r'(secret|configmap) ".*" not found|couldn\'t find key|references non-existent (secret|config)', re.I
)


@dataclass(frozen=True)
class Waiting:
    """Work that does not begin, and why."""

    kind: Kind
    what: str  # the pod, Job or TrainJob
    detail: str  # Kubernetes' own words, in a line
    among: str = ""  # "1 of 2 pods runs", where others do

    @property
    def passes(self) -> bool:
        """Return whether it may end by itself."""
        return self.kind in PASSING


@dataclass(frozen=True)
class Failure:
    """Reason why work ended badly."""

    cause: Cause
    what: str = ""  # the pod
    detail: str = ""
    exit_code: int | None = None
    limit: str = ""  # of memory
    said: str = ""  # our own line about it, where there is one


# -- pods


def waiting_of(pod: dict[str, Any], events: Iterable[dict[str, Any]] = ()) -> Waiting | None:
    """Return why a pod does not begin; None for one that runs or has ended. ``events``: warnings of its namespace."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("phase") not in (None, "Pending", "Unknown"):
        return None
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _unscheduled(name, condition)
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), line_of(waiting.get("message"))
        if reason in _IMAGE:
            return Waiting("image", name, line_of(_pull_trouble(_whole(waiting.get("message")), container, pod)))
        if reason and reason not in _STARTING:
            return Waiting("config" if _NO_SECRET.search(message) else "container", name, message or reason)
    about = [event for event in events if (event.get("involvedObject") or {}).get("uid") == pod["metadata"].get("uid")]
    for event in sorted(about, key=_time, reverse=True):
        message = line_of(event.get("message"))
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            return Waiting("config" if _NO_SECRET.search(message) else "volume", name, message)
        if event.get("reason") in ("FailedCreatePodSandBox", "NetworkNotReady"):
            return Waiting("container", name, message)
    return Waiting("starting", name, "")


def _unscheduled(name: str, condition: dict[str, Any]) -> Waiting:
    message = line_of(condition.get("message"))
    if condition.get("reason") == "SchedulingGated":
        return Waiting("queue", name, message)
    # What follows is about preemption, and about devices that nobody claimed.
    message = re.split(r"\.? (?:preemption:|no new claims)", message)[0].rstrip(".")
    return Waiting("volume" if "persistentvolumeclaim" in message.lower() else "room", name, message)


def _pull_trouble(message: str, container: dict[str, Any], pod: dict[str, Any]) -> str:
    """The image and the registry's own words, once: the kubelet says them in two ways in turn, and the image up to five times."""
    image = str(_specified(pod, container).get("image") or container.get("image") or "")
    cause = message.rpartition(f'"{image}": ')[2].removeprefix(f"{image}: ").rpartition("desc = ")[2]
    return f"{image}: {cause}" if cause and "ack-off pulling image" not in cause else image


def failure_of(pod: dict[str, Any]) -> Failure | None:
    """Return why a pod failed; None for one that did not."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("phase") != "Failed":
        return None
    reason, message = str(status.get("reason") or ""), line_of(status.get("message"))
    if reason == "DeadlineExceeded":
        limit = (pod.get("spec") or {}).get("activeDeadlineSeconds")
        return Failure("deadline", name, f"{limit} s" if limit else message)
    disruption = condition(status, "DisruptionTarget")
    if reason in _EVICTED or disruption:
        return Failure("evicted", name, message or line_of((disruption or {}).get("message")) or reason)
    for container in _containers(status):
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") and (failure := _exit(pod, container, ended)) is not None:
            return failure
    return Failure("exit", name, message or reason)


def taken_off(pod: dict[str, Any]) -> Failure | None:
    """Return why a pod leaves its node before its work is done: a drain, a preemption, pressure; None for one that stays."""
    status = pod.get("status") or {}
    disruption = condition(status, "DisruptionTarget")
    if disruption is None or status.get("phase") == "Succeeded":
        return None
    return Failure("evicted", pod["metadata"]["name"], line_of(disruption.get("message") or disruption.get("reason")))


def _exit(pod: dict[str, Any], container: dict[str, Any], ended: dict[str, Any]) -> Failure | None:
    name, code = pod["metadata"]["name"], int(ended["exitCode"])
    if ended.get("reason") == "OOMKilled":
        limits = (_specified(pod, container).get("resources") or {}).get("limits") or {}
        return Failure("memory", name, exit_code=code, limit=str(limits.get("memory") or ""))
    if _is_sidecar(pod, container) and code in (137, 143):
        return None  # a sidecar that was ended with the rest
    return Failure("exit", name, line_of(ended.get("message")), exit_code=code)


def _specified(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """Return what the pod's spec says of the container that a status is of."""
    containers = (pod.get("spec") or {}).get("containers") or []
    return next((one for one in containers if one.get("name") == container.get("name")), {})


def _is_sidecar(pod: dict[str, Any], container: dict[str, Any]) -> bool:
    names = {one.get("name") for one in (pod.get("spec") or {}).get("containers") or []}
    return container.get("name") not in (names & set(_MAIN) or names)


def _containers(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The main one first: what its sidecars say is mostly its doing."""
    both = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    return sorted(both, key=lambda container: container.get("name") not in _MAIN)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the condition of a kind, if it is true."""
    conditions = status.get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), None)


# -- what has no pod: told in events, and in an Argo node's message, alone


def refusal(message: str, what: str) -> Waiting:
    """Say why an object could not be made, from the API server's words about it."""
    text = line_of(message)
    if "exceeded quota" in text:
        return Waiting("quota", what, re.sub(r"^.*?(exceeded quota)", r"\1", text))
    if "violates PodSecurity" in text:
        return Waiting("policy", what, re.sub(r"^.*?(violates PodSecurity)", r"\1", text))
    if "admission webhook" in text or "ValidatingAdmissionPolicy" in text:
        return Waiting("policy", what, re.sub(r"^.*?(admission webhook|ValidatingAdmissionPolicy)", r"\1", text))
    return Waiting("runtime", what, text)


def complaint(events: Iterable[dict[str, Any]], names: Collection[str]) -> Waiting | None:
    """Return the newest warning that one of these objects' parts could not be made."""
    refused = [
        event
        for event in events
        if (event.get("involvedObject") or {}).get("name") in names
        and event.get("reason") in ("FailedCreate", "TrainJobResourcesCreationFailed", "JobCreationFailed")
    ]
    if not refused:
        return None
    newest = max(refused, key=_time)
    return refusal(str(newest.get("message") or ""), newest["involvedObject"]["name"])


def _time(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, times), (event.get("metadata") or {}).get("creationTimestamp") or ""))


def newest_pods(pods: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of the last restart of a JobSet, without those that are being deleted."""
    stay = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    last = max(map(attempt_of, stay), default=0)
    return [pod for pod in stay if attempt_of(pod) == last]


def failed_pod(pods: Sequence[dict[str, Any]]) -> Failure | None:
    """Return why a job's pods failed: the memory of one explains the exit of the others."""
    failures = [failure for pod in pods if (failure := failure_of(pod)) is not None]
    order: tuple[Cause, ...] = ("memory", "deadline", "evicted", "exit")
    return min(failures, key=lambda failure: order.index(failure.cause), default=None)


def attempt_of(pod: dict[str, Any]) -> int:
    """Return how often the JobSet had been started again when it made this pod."""
    return count_of((pod["metadata"].get("labels") or {}).get(RESTART)) or 0


def count_of(text: str | None) -> int | None:
    """Return the number that a label or an annotation says; None for none."""
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else None


def _whole(text: Any) -> str:
    return " ".join(str(text or "").split())


def line_of(text: Any) -> str:
    """On one line, and no longer than a person reads."""
    whole = _whole(text)
    return whole if len(whole) <= 300 else f"{whole[:297]}..."
