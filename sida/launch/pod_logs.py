"""Logs of pods while they run: joined without gaps after an outage; of a TrainJob's first node, found again after a restart."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sida.launch.cluster import Cluster, lines, passing
from sida.launch.pod_state import attempt_of
from sida.launch.trainjob_manifest import NODE

INDEX = "batch.kubernetes.io/job-completion-index"
OVERLAP_SECONDS = 5  # how much further back than the last look each look begins


def pods_of(job: str) -> str:
    """Label selector of a TrainJob's pods."""
    return f"jobset.sigs.k8s.io/jobset-name={job}"


class PodLog:
    """One container's log, looked at again and again: each line once, by the time stamps that the kubelet puts before lines."""

    def __init__(self, pod: str, container: str) -> None:
        self._pod, self._container = pod, container
        self._began = 0.0  # the look at work
        self._read_at: float | None = None  # when the last look that came to its end began
        self._last = ""  # time of the last line
        self._count = 0  # lines of that very time

    def open(self, cluster: Cluster, *, follow: bool = False) -> Any:
        """Begin a look; the open response. Raises what ``Cluster.log`` raises."""
        self._began, back = time.monotonic(), None
        if self._read_at is not None:  # by our clock alone, which may differ from the node's
            back = math.ceil(self._began - self._read_at) + OVERLAP_SECONDS
        return cluster.log(self._pod, self._container, follow=follow, since_seconds=back, timestamps=True)

    def new_lines(self, response: Any, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that have not been seen; the next look goes on where this one breaks off."""
        skip = self._count
        for raw in lines(response, follow=follow):
            stamp, _, text = raw.decode(errors="replace").partition(" ")
            stamp = _sortable(stamp)
            if stamp == self._last and skip:
                skip -= 1
            elif stamp == self._last:
                self._count += 1
                yield text
            elif stamp > self._last:
                self._last, self._count, skip = stamp, 1, 0
                yield text
        self._read_at = self._began


class FirstNodeLog:
    """Reads the container ``node`` of the job's first node, again and again.

    ``line`` gets each line once, ``note`` what a person should know: that the gang restarted, or that the log cannot be read.
    """

    def __init__(self, cluster: Cluster, line: Callable[[str], None], note: Callable[[str], None]) -> None:
        self._cluster, self._line, self._note = cluster, line, note
        self._logs: dict[str, PodLog] = {}  # by the pods' uids
        self._done: set[str] = set()  # pods whose log has been read to the end

    def read(self, pods: Iterable[dict[str, Any]], *, of_ended: bool = False) -> bool:
        """Read what is new, with ``of_ended`` of pods that have ended only; whether nothing more will come of any."""
        first = [pod for pod in pods if first_node(pod) and _has_log(pod)]
        for pod in sorted(first, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
            if pod["metadata"]["uid"] not in self._done and (is_over(pod) or not of_ended):
                self._read(pod)
        return all(pod["metadata"]["uid"] in self._done for pod in first)

    def _read(self, pod: dict[str, Any]) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if uid not in self._logs:
            if self._logs:
                restart = f" (restart {attempt_of(pod)})" if attempt_of(pod) else ""  # none: its place was given back
                self._note(f"started again{restart}, pod {name}")
            self._logs[uid] = PodLog(name, NODE)
        log = self._logs[uid]
        try:
            for text in log.new_lines(log.open(self._cluster)):
                self._line(text)
        except Exception as error:
            if passing(error) is not None:
                return
            self._note(f"its log cannot be read: {' '.join(str(error).split())}")  # forbidden, or the pod has just gone
        if is_over(pod):
            self._done.add(uid)


def _sortable(stamp: str) -> str:
    """RFC 3339 with nine decimals: as written, trailing zeros may be missing."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def first_node(pod: dict[str, Any]) -> bool:
    """Return whether it is the pod of rank 0."""
    metadata = pod["metadata"]
    text = (metadata.get("labels") or {}).get(INDEX) or (metadata.get("annotations") or {}).get(INDEX) or "0"
    return text == "0"


def is_over(pod: dict[str, Any]) -> bool:
    """Return whether its containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _has_log(pod: dict[str, Any]) -> bool:
    """Return whether the container has started once."""
    for container in pod.get("status", {}).get("containerStatuses") or []:
        if container.get("name") == NODE:
            state = container.get("state") or {}
            return "running" in state or "terminated" in state
    return False


def event_of(line: str) -> dict[str, Any] | None:
    """The progress event that a line is, if it is one (``SIDA_EVENTS=-``)."""
    if not line.startswith('{"event"'):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("step"), str) else None
