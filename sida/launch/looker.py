"""Looks at a namespace and changes nothing: pods, warnings, logs, TrainJobs, Workflows.

Without the right to look, or a way to the cluster, the answer is None and the reason noted: the rest is worth showing all the same.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sida.errors import SidaError, UserError
from sida.launch.cluster import ApiRefused, Cluster, Unreachable, lines, passing
from sida.launch.pod_logs import PodLog
from sida.launch.pod_state import waiting_of
from sida.launch.words import waiting_in_words

REST_SECONDS = 60.0  # after a look that failed, before the next one of its kind
POLL_SECONDS = 2.0  # between two looks at a pod that has not begun
LAST_LINES = 50
RETRY_SECONDS = 1.0  # before a log whose stream broke off is read on
_FORBIDDEN = (401, 403)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Unseen:
    """A thing that could not be looked at, and why, in a few words."""

    what: str
    place: str
    why: str


class Looks:
    """Looks that may fail: ``missing`` tells which did. What has failed is left alone for a minute."""

    def __init__(self) -> None:
        self.missing: list[Unseen] = []
        self._failed: dict[tuple[str, str], tuple[float, Unseen]] = {}

    def look(self, what: str, place: str, call: Callable[[], Result], *, needed: bool = True) -> Result | None:
        """Return what ``call`` returns; None where it fails, which is noted if it is ``needed``."""
        since, unseen = self._failed.get((what, place), (0.0, None))
        if unseen is None or time.monotonic() - since >= REST_SECONDS:
            try:
                result = call()
            except Exception as error:
                if (why := _why(error)) is None:
                    raise
                unseen = Unseen(what, place, why)
                if what != "logs" or not isinstance(error, ApiRefused) or error.status in _FORBIDDEN:
                    self._failed[what, place] = time.monotonic(), unseen  # else of this pod alone: it is not there
            else:
                self._failed.pop((what, place), None)
                return result
        if needed:
            self.missing.append(unseen)
        return None


def _why(error: Exception) -> str | None:
    """Return why a look failed, in a few words; None for what is a mistake of ours."""
    match error:
        case ApiRefused(status=status, reason=reason):
            return f"{status}, {reason if status in _FORBIDDEN else error}"
        case SidaError() | OSError():  # also: no cluster is configured here, or it does not answer
            return str(error)
    passes = passing(error)
    return f"the cluster does not answer: {passes}" if passes else None


def in_a_line(unseen: Iterable[Unseen]) -> str:
    """``could not look at events, pods in kubeflow (403, Forbidden)``; empty when everything was seen."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for one in dict.fromkeys(unseen):
        grouped.setdefault((one.place, one.why), []).append(one.what)
    parts = [f"{', '.join(sorted(what))} in {place} ({why})" for (place, why), what in grouped.items()]
    return f"could not look at {'; '.join(parts)}" if parts else ""


class Looker:
    """The read-only side of one namespace. Nothing here raises for what the cluster or its absence says."""

    def __init__(self, namespace: str, looks: Looks) -> None:
        self.namespace, self._looks = namespace, looks
        self._cluster: Cluster | None = None

    def look(self, what: str, call: Callable[[Cluster], Result], *, needed: bool = True) -> Result | None:
        """Return what ``call`` returns of the cluster; see ``Looks.look``."""

        def look() -> Result:
            if self._cluster is None:
                self._cluster = Cluster(self.namespace, outage_seconds=0.0)
            return call(self._cluster)

        return self._looks.look(what, self.namespace, look, needed=needed)

    def last_lines(self, pod: str, container: str) -> list[str] | None:
        """Return the end of a container's log."""

        def read(cluster: Cluster) -> list[str]:
            last = deque(lines(cluster.log(pod, container, tail_lines=LAST_LINES)), maxlen=LAST_LINES)
            return [line.decode(errors="replace") for line in last]

        return self.look("logs", read)

    def log(self, pod: str, container: str, *, follow: bool) -> Iterator[str] | None:
        """A container's log, line by line; one that is followed goes on where its stream broke off."""
        log = PodLog(pod, container)
        response = self.look("logs", partial(log.open, follow=follow))
        return None if response is None else self._lines(log, response, follow)

    def newest_log(
        self, step: str, labels: str, container: str, wanted: Callable[[dict[str, Any]], bool], *, follow: bool
    ) -> Iterator[str] | None:
        """The log of the newest of these pods; None where there is none, or none to be looked at.

        One that has not begun is waited for with ``follow``; else it raises UserError.
        """
        last_line = ""
        while pods := [pod for pod in self.look("pods", lambda cluster: cluster.pods(labels)) or [] if wanted(pod)]:
            pod = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
            if (waiting := waiting_of(pod)) is None:
                return self.log(pod["metadata"]["name"], container, follow=follow)
            line = f"{step} has no log yet: {waiting_in_words(waiting)}"
            if not follow:
                raise UserError(f"{line}: --follow waits for it")
            if line != last_line:
                last_line = line
                print(line, file=sys.stderr)
            time.sleep(POLL_SECONDS)
        return None

    def _lines(self, log: PodLog, response: Any, follow: bool) -> Iterator[str]:
        while response is not None:
            try:
                yield from log.new_lines(response, follow=follow)
                return
            except Exception as error:  # nothing was said for minutes, or a proxy in between has had enough
                if (why := passing(error)) is None:
                    raise
                if not follow:
                    raise Unreachable(
                        f"the log broke off here ({why}): run the command again, or with --follow"
                    ) from error
            time.sleep(RETRY_SECONDS)
            response = self.look("logs", partial(log.open, follow=True))
