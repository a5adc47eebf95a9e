"""The log of a TrainJob's first node while it runs: found again after a restart, joined without gaps after an outage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from sida.launch.cluster import Cluster, lines, passing
from sida.launch.manifest import NODE
from sida.launch.pod_state import attempt_of

INDEX = "batch.kubernetes.io/job-completion-index"
OVERLAP_SECONDS = 5  # how much further back than the last look each look begins


def pods_of(job: str) -> str:
    """Label selector of a TrainJob's pods."""
    return f"jobset.sigs.k8s.io/jobset-name={job}"


class FirstNodeLog:
    """Reads the container ``node`` of the job's first node, again and again.

    ``line`` gets each line once, ``note`` what a person should know: that the gang restarted, or that the log cannot be read.
    """

    def __init__(self, cluster: Cluster, line: Callable[[str], None], note: Callable[[str], None]) -> None:
        self._cluster, self._line, self._note = cluster, line, note
        self._at: dict[str, Position] = {}  # by the pods' uids
        self._read_at: dict[str, float] = {}  # when the last look that came to its end began
        self._done: set[str] = set()  # pods whose log has been read to the end

    def read(self, pods: Iterable[dict[str, Any]], *, of_ended: bool = False) -> bool:
        """Read what is new, with ``of_ended`` of pods that have ended only; whether nothing more will come of any."""
        first = [pod for pod in pods if first_node(pod) and _has_log(pod)]
        for pod in sorted(first, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
            if pod["metadata"]["uid"] not in self._done and (is_over(pod) or not of_ended):
                self._read(pod)
        return all(pod["metadata"]["uid"] in self._done for pod in first)

    def _read(self, pod: dict[str, Any]) -> None:
        uid, name, began = pod["metadata"]["uid"], pod["metadata"]["name"], time.monotonic()
        if uid not in self._at:
            if self._at:
                self._note(f"started again (restart {attempt_of(pod)}), pod {name}")
            self._at[uid] = Position(uid)
        at, back = self._at[uid], None
        if uid in self._read_at:  # by our clock alone, which may differ from the node's
            back = math.ceil(began - self._read_at[uid]) + OVERLAP_SECONDS
        try:
            response = self._cluster.log(name, NODE, since_seconds=back, timestamps=True)
            at.begin()
            for raw in lines(response):
                if (text := at.new(raw.decode(errors="replace"))) is not None:
                    self._line(text)
            self._read_at[uid] = began
        except Exception as error:
            if passing(error) is not None:
                return  # the next look goes on where this one broke off
            self._note(f"its log cannot be read: {' '.join(str(error).split())}")  # forbidden, or the pod has just gone
        if is_over(pod):
            self._done.add(uid)


class Position:
    """How far a pod's log has been read, by the time stamps that the kubelet puts before its lines."""

    def __init__(self, pod: str = "") -> None:
        self.pod = pod
        self._last = ""  # of the last line
        self._count = 0  # lines of that very time
        self._skip = 0

    def since_seconds(self) -> int | None:
        """How far back to ask; None for all."""
        if not self._last:
            return None
        last = datetime.fromisoformat(self._last[:19] + "+00:00")
        return max(1, math.ceil((datetime.now(UTC) - last).total_seconds()) + 5)

    def begin(self) -> None:
        """A stream is read from an earlier line on."""
        self._skip = self._count

    def new(self, line: str) -> str | None:
        """The text of a line that has not been seen."""
        stamp, _, text = line.partition(" ")
        stamp = _sortable(stamp)
        if stamp < self._last:
            return None
        if stamp == self._last:
            if self._skip:
                self._skip -= 1
                return None
            self._count += 1
        else:
            self._last, self._count, self._skip = stamp, 1, 0
        return text


def _sortable(stamp: str) -> str:
    """RFC 3339 with nine decimals: as written, trailing zeros may be missing."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def first_node(pod: dict[str, Any]) -> bool:
    """Whether it is the pod of rank 0."""
    metadata = pod["metadata"]
    text = (metadata.get("labels") or {}).get(INDEX) or (metadata.get("annotations") or {}).get(INDEX) or "0"
    return text == "0"


def is_over(pod: dict[str, Any]) -> bool:
    """Whether its containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _has_log(pod: dict[str, Any]) -> bool:
    """Whether the container has started once."""
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
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("step"), str) else None
