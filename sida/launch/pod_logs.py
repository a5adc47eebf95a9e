"""The log of a TrainJob's first node while it runs: found again after a restart, joined without gaps after an outage."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sida.launch.cluster import MAX_PAUSE, Cluster, lines, passing
from sida.launch.manifest import NODE, RESTART

INDEX = "batch.kubernetes.io/job-completion-index"
LOOK_SECONDS = 5.0  # between two looks for the pod


def pods_of(job: str) -> str:
    """Label selector of a TrainJob's pods."""
    return f"jobset.sigs.k8s.io/jobset-name={job}"


class FirstNode(threading.Thread):
    """Follows the container ``node`` of the job's first node.

    ``line`` gets each line once, ``note`` what a person should know: that the gang restarted, or that the log cannot be read. Both
    are called in this thread.
    """

    def __init__(self, job: str, cluster: Cluster, line: Callable[[str], None], note: Callable[[str], None]) -> None:
        super().__init__(name=f"log of {job}", daemon=True)
        self._job, self._cluster, self._line, self._note = job, cluster, line, note
        self._halt, self._ended = threading.Event(), threading.Event()
        self._said = ""
        self._at = Position()
        self._done: set[str] = set()  # pods whose log has been read to the end

    def run(self) -> None:
        """Until ``finish``: find the pod, read its log, look for the next one."""
        pause = 1.0
        while not self._halt.is_set():
            try:
                pod = self._next()
                if pod is None or not _has_log(pod):
                    if self._ended.is_set():
                        return
                    self._cluster.clock.wait(self._ended, LOOK_SECONDS)
                    continue
                self._read(pod)
                pause = 1.0
            except Exception as error:
                why = passing(error)
                if why is None:  # forbidden, or the pod has just gone
                    self._tell(f"its log cannot be read: {' '.join(str(error).split())}")
                    if self._ended.is_set():
                        return
                    pause = max(pause, LOOK_SECONDS)
                if self._cluster.clock.wait(self._ended, pause):  # then there is no time to lose
                    self._cluster.clock.wait(self._halt, 1.0)
                pause = min(2 * pause, MAX_PAUSE)

    def finish(self, seconds: float) -> None:
        """The job has ended: read what is left, for so long at most."""
        self._ended.set()
        self.join(seconds)
        self._halt.set()

    def _next(self) -> dict[str, Any] | None:
        """The first pod of index 0 whose log we have not read to its end."""
        found = [pod for pod in self._cluster.pods(pods_of(self._job), repeat=False) if first_node(pod)]
        found = [
            pod for pod in found if pod["metadata"]["uid"] not in self._done and (_has_log(pod) or not is_over(pod))
        ]
        return min(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)

    def _read(self, pod: dict[str, Any]) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if self._at.pod != uid:
            if self._at.pod:
                self._note(f"started again (restart {pod['metadata'].get('labels', {}).get(RESTART, '?')}), pod {name}")
            self._at = Position(uid)
        self._said = ""
        over = is_over(pod)
        response = self._cluster.log(name, NODE, follow=True, since_seconds=self._at.since_seconds(), timestamps=True)
        self._at.begin()
        for raw in lines(response):
            self._cluster.reach.heard()
            text = self._at.new(raw.decode(errors="replace"))
            if text is not None:
                self._line(text)
            if self._halt.is_set():
                return
        if over:
            self._done.add(uid)
        else:  # the container ended, or the server closed the stream: the pod's phase tells, soon
            self._cluster.clock.wait(self._halt, 1.0)

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._note(text)


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
