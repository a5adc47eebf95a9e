"""Looks at one namespace and changes nothing: pods, warnings, logs, TrainJobs, Workflows.

Who may not look, or has no way to the cluster from here, is told so as a value: what else is known is worth showing all the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sida.errors import UserError
from sida.launch.cluster import Cluster, Refused, lines, passing
from sida.launch.pod_logs import Position
from sida.launch.pod_state import waiting_of
from sida.launch.words import waiting_in_words

REST_SECONDS = 60.0  # after a look that failed, before the next one of its kind
POLL_SECONDS = 2.0  # between two looks at a pod that has not begun
RETRY_SECONDS = 1.0  # before a log whose stream broke off is read on
Found = TypeVar("Found")


@dataclass(frozen=True)
class Unseen:
    """What could not be looked at, and why, in a few words."""

    what: str
    namespace: str
    why: str


class Looker:
    """The read-only side of one namespace. Nothing here raises for what the cluster or its absence says."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._cluster: Cluster | None = None
        self._failed: dict[str, tuple[float, Unseen]] = {}
        self.missing: list[Unseen] = []  # what could not be looked at so far

    def pods(self, labels: str) -> list[dict[str, Any]] | Unseen:
        """By label selector."""
        return self._look("pods", lambda cluster: cluster.pods(labels))

    def warnings(self) -> list[dict[str, Any]] | Unseen:
        """Events of type Warning."""
        return self._look("events", lambda cluster: cluster.warnings())

    def workflows(self, labels: str) -> list[dict[str, Any]] | Unseen:
        """Argo's Workflows by label selector."""
        return self._look("workflows", lambda cluster: cluster.workflows(labels))

    def trainjobs(self, labels: str) -> list[dict[str, Any]] | Unseen:
        """By label selector."""
        return self._look("trainjobs", lambda cluster: cluster.find(labels))

    def last_lines(self, pod: str, container: str, count: int = 50) -> list[str] | Unseen:
        """The end of a container's log."""

        def read(cluster: Cluster) -> list[str]:
            return [line.decode(errors="replace") for line in lines(cluster.log(pod, container, tail_lines=count))]

        return self._look("logs", read)

    def log(self, pod: str, container: str, *, follow: bool) -> Iterator[str] | Unseen:
        """A container's log, line by line; one that is followed goes on where its stream broke off."""
        opened = self._look("logs", lambda cluster: cluster.log(pod, container, follow=follow, timestamps=True))
        return opened if isinstance(opened, Unseen) else self._lines(opened, pod, container, follow)

    def newest_log(
        self, step: str, labels: str, container: str, wanted: Callable[[dict[str, Any]], bool], *, follow: bool
    ) -> Iterator[str] | None:
        """The log of the newest of these pods; None where there is none, or none to be looked at.

        One that has not begun is waited for with ``follow``; else it raises UserError.
        """
        told = ""
        while True:
            pods = self.pods(labels)
            here = [] if isinstance(pods, Unseen) else [pod for pod in pods if wanted(pod)]
            if not here:
                return None
            pod = max(here, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
            waiting = waiting_of(pod)
            if waiting is None:
                opened = self.log(pod["metadata"]["name"], container, follow=follow)
                return None if isinstance(opened, Unseen) else opened
            said = f"{step} has no log yet: {waiting_in_words(waiting)}"
            if not follow:
                raise UserError(f"{said}: --follow waits for it")
            if said != told:
                told = said
                print(said, file=sys.stderr)
            time.sleep(POLL_SECONDS)

    def _lines(self, opened: Any, pod: str, container: str, follow: bool) -> Iterator[str]:
        at = Position(pod)
        while not isinstance(opened, Unseen):
            at.begin()
            try:
                for raw in lines(opened):
                    if (text := at.new(raw.decode(errors="replace"))) is not None:
                        yield text
                return
            except Exception as error:  # nothing was said for minutes, or a proxy in between has had enough
                if not follow or passing(error) is None:
                    raise
            time.sleep(RETRY_SECONDS)
            since = at.since_seconds()
            opened = self._look(
                "logs",
                lambda cluster, since=since: cluster.log(  # type: ignore[misc]
                    pod, container, follow=True, timestamps=True, since_seconds=since
                ),
            )

    def _look(self, what: str, call: Callable[[Cluster], Found]) -> Found | Unseen:
        answer = self._answer(what, call)
        if isinstance(answer, Unseen):
            self.missing.append(answer)
        return answer

    def _answer(self, what: str, call: Callable[[Cluster], Found]) -> Found | Unseen:
        since, unseen = self._failed.get(what, (0.0, None))
        if unseen is not None and time.monotonic() - since < REST_SECONDS:
            return unseen
        try:
            if self._cluster is None:
                self._cluster = Cluster(self.namespace, outage_seconds=0.0)
            found = call(self._cluster)
        except Refused as error:
            why = f"{error.status}, {error.reason}" if error.status in (401, 403) else f"{error.status}, {error}"
            unseen = Unseen(what, self.namespace, why)
            if what == "logs" and error.status not in (401, 403):
                return unseen  # of this pod alone: it has not begun, or has gone
        except UserError as error:  # no cluster is configured here, or it does not answer
            unseen = Unseen(what, self.namespace, str(error))
        except Exception as error:
            if passing(error) is None:
                raise
            unseen = Unseen(what, self.namespace, f"the cluster does not answer: {passing(error)}")
        else:
            self._failed.pop(what, None)
            return found
        self._failed[what] = (time.monotonic(), unseen)
        return unseen


def in_a_line(unseen: list[Unseen]) -> str:
    """``could not look at events, pods in kubeflow (403, Forbidden)``; empty when everything was seen."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for one in dict.fromkeys(unseen):
        grouped.setdefault((one.namespace, one.why), []).append(one.what)
    parts = [f"{', '.join(sorted(what))} in {place} ({why})" for (place, why), what in grouped.items()]
    return f"could not look at {'; '.join(parts)}" if parts else ""
