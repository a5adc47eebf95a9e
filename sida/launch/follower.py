"""Follows one TrainJob to its end by looking at it every few seconds: its conditions, the events about it, its pods and log.

Looking again outlives an API server that is away. Pods are looked at every second: a restart of the job deletes a failed one about
two seconds after its end, and with it why it failed and the end of its log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sida import patience, progress
from sida.errors import SidaError, TimedOut, Unavailable, UserError
from sida.launch import grace
from sida.launch.annotations import disruptions, of_disruption, of_progress
from sida.launch.base import Work
from sida.launch.cluster import ApiRefused, Cluster, Unreachable
from sida.launch.job_state import ended, pods_run, queue_of, suspended, waiting_job
from sida.launch.pod_logs import FirstNodeLog, event_of, pods_of
from sida.launch.pod_state import attempt_of, failure_of, taken_off
from sida.launch.trainjob_manifest import grace_of
from sida.launch.words import failure_in_words, waiting_in_words
from sida.launch.worker_error import explain, failure
from sida.progress import duration
from sida.settings import settings

POLL_SECONDS = 5.0  # between two looks at the job and its events
POD_SECONDS = 1.0  # between two looks at its pods
WAITING_SECONDS = 10.0  # between two looks at why pods do not begin, and at the queue
CREATION_SECONDS = 120.0  # how long the controller may fail to create what the job consists of
ANNOTATION_SECONDS = 30.0  # between two that tell of progress
LOG_SECONDS = 30.0  # to read the rest of the log
RESULT_SECONDS = 60.0  # between looks into the store while the API server is away
SUBMIT_AGAIN = "checkpoints are kept: run the step again to continue"
_TOLD_AT_ONCE = ("memory", "evicted")  # of other causes the log tells


class _Finished(Exception):
    """The result is in the store, whatever the API server has to say."""


class Follower:
    """Follows one job; what is known of it so far."""

    def __init__(self, cluster: Cluster, job: dict[str, Any], work: Work, note: Callable[[str], None]) -> None:
        self.cluster, self.job, self.work, self.note = cluster, job, work, note
        self.name, self.uid = str(job["metadata"]["name"]), job["metadata"]["uid"]
        self._title = f"TrainJob {cluster.namespace}/{self.name}"
        self._warnings: dict[tuple[str, str], dict[str, Any]] = {}  # events by name and version
        self._asked = cluster.tick  # raises when we are to end
        self._log: FirstNodeLog
        self._events_seen = True  # until they may not be read
        self._not_created: tuple[float, str] | None = None  # since when, and the newest message
        self._pods: list[dict[str, Any]] | None = None
        self._failed: set[str] = set()  # pods of which it was told why
        self._attempt = 0  # the job's last start
        self._killed = ""  # that one of its pods was killed for memory, in words
        self._workloads: Sequence[dict[str, Any]] | None = None  # of Kueue, at the last look; None: may not be read
        self._annotates = True  # until that may not be done
        self._progress: dict[str, Any] | None = None  # which is not shown yet
        self._shown = cluster.clock.now() - ANNOTATION_SECONDS
        self._disruptions = disruptions(job)
        self._told_grace = False
        self._looked_in_store = self._looked_why = cluster.clock.now()
        self._looked_in_queue: float | None = None

    def run(self) -> None:
        """Return when it has ended well, or its result is there; else raise why it has not."""
        self.cluster.tick = self._tick
        self.work.log.parent.mkdir(parents=True, exist_ok=True)
        with self.work.log.open("a", encoding="utf-8") as log:
            begin = log.seek(0, 2)

            def line(text: str) -> None:
                log.write(text + "\n")
                log.flush()
                self._hear(text)

            self._log = FirstNodeLog(self.cluster, line, self.note)
            try:
                failed = self._until_ended()
                self._read_rest_of_log()
            except _Finished:
                failed = None
            except Unreachable as error:
                raise Unreachable(
                    f"{self._title}: {error}; the job runs on: run the step again to follow it"
                ) from error
            finally:
                self.cluster.tick = self._asked
        try:
            self.work.keep_log()
        except Unavailable as error:
            self.note(f"its log is not kept: {error}")
        # A worker that fails after the result is there changes nothing.
        if failed is not None and not self.work.finished():
            raise self._cause(failed, begin)

    def _tick(self) -> None:
        """Between two looks, and while the API server does not answer: the job may end meanwhile."""
        self._asked()
        silent = self.cluster.silent_for()
        if silent <= RESULT_SECONDS * 1.5:
            return
        self.note(f"the Kubernetes API does not answer since {duration(silent - silent % 60)}; the job runs on")
        if self.cluster.clock.now() - self._looked_in_store > RESULT_SECONDS:
            self._looked_in_store = self.cluster.clock.now()
            if self.work.finished():
                raise _Finished

    def _until_ended(self) -> dict[str, Any] | None:
        """Return None when the job is complete; else the condition that says that it failed."""
        clock = self.cluster.clock
        while True:
            if (end := ended(self.job)) is not None:
                return None if end["type"] == "Complete" else end
            self._say_how_it_stands()
            self._show_progress()
            self._look_at_events()
            if clock.now() - self._looked_why > WAITING_SECONDS:
                self._looked_why = clock.now()
                self._say_why_it_waits()
            polled = clock.now()
            while clock.now() - polled < POLL_SECONDS:
                self._log.read(self._look_at_pods(), of_ended=True)
                self.cluster.pause(POD_SECONDS)
            self._log.read(self._look_at_pods())
            job = self.cluster.get(self.name)
            if job is None or job["metadata"]["uid"] != self.uid:
                if self.work.finished():
                    return None
                how = "was deleted" if job is None else "was deleted and made anew"
                asked = self.work.cancelled()
                why = f": the run was {asked}" if asked else " by somebody else (kubectl?)"
                raise SidaError(f"{self._title} {how}{why}: {SUBMIT_AGAIN}")
            self.job = job

    def _read_rest_of_log(self) -> None:
        until = self.cluster.clock.now() + LOG_SECONDS
        while self.cluster.clock.now() < until:
            if self._log.read(self._look_at_pods()) and self._pods is not None:
                return
            self.cluster.pause(POD_SECONDS)

    # -- one look

    def _say_how_it_stands(self) -> None:
        if (waits := suspended(self.job)) is None:
            if pods_run(self.job):
                self.note("its pods run")
        elif queue_of(self.job):
            self._look_into_queue()
            if (waiting := waiting_job(self.job, self._pods, (), self._workloads)) is not None:
                self.note(waiting_in_words(replace(waiting, what="")))
        else:
            self.note(f"is suspended: {waits.get('message', '')}".rstrip(": "))

    def _look_into_queue(self) -> None:
        """Read Kueue's Workloads; where they may not be read it is told, once, and Trainer's own words have to do."""
        now, since = self.cluster.clock.now(), self._looked_in_queue
        if since is not None and (now - since < WAITING_SECONDS or self._workloads is None):
            return
        self._looked_in_queue = now
        try:
            self._workloads = self.cluster.workloads()
        except ApiRefused as error:
            self._workloads = None
            self.note(f"its place in queue {queue_of(self.job)} cannot be looked at ({error.status}, {error.reason})")

    def _look_at_events(self) -> None:
        """Tell what is new. Creation failures never reach the status: a job that cannot be created would be waited for for ever."""
        for event in self._events():
            version = (event["metadata"]["name"], str(event["metadata"].get("resourceVersion")))
            about = event.get("involvedObject") or {}
            if version in self._warnings or (about.get("kind") == "TrainJob" and about.get("uid") != self.uid):
                continue
            self._warnings[version] = event
            message = " ".join(str(event.get("message", "")).split())
            if about.get("kind") != "Job":  # what a Job cannot make is told as long as it is missing
                self.note(f"{event.get('reason')}: {message}")
            if event.get("reason") == "TrainJobResourcesCreationFailed":
                since = self._not_created[0] if self._not_created else self.cluster.clock.now()
                self._not_created = since, message
        if (self.job.get("status") or {}).get("jobsStatus"):
            self._not_created = None
        if self._not_created and self.cluster.clock.now() - self._not_created[0] > CREATION_SECONDS:
            self.cluster.delete(self.name, self.uid)
            raise UserError(
                f"{self._title} could not be created: {self._not_created[1]}: correct runtime, resources or quota (see the "
                f"profile), then run again"
            )

    def _events(self) -> list[dict[str, Any]]:
        """Return the warnings about the job, its JobSet and the Job of its nodes."""
        if not self._events_seen:
            return []
        try:
            return [event for about in (self.name, f"{self.name}-node-0") for event in self.cluster.warnings(about)]
        except ApiRefused as error:
            self._events_seen = False
            self.note(f"its events cannot be read ({error}): why it is not created will not be known")
            return []

    def _look_at_pods(self) -> list[dict[str, Any]]:
        """Return its pods. Why one failed is told at once: a restart of the job deletes it, and what it knew."""
        self._pods = self.cluster.pods_now(pods_of(self.name))  # whoever may not look is told by what ends badly
        for pod in self._pods or []:
            if (attempt := attempt_of(pod)) > self._attempt:
                self._attempt, self._killed = attempt, ""
        for pod in self._pods or []:
            taken = taken_off(pod)
            cause, uid = taken or failure_of(pod), pod["metadata"]["uid"]
            if attempt_of(pod) < self._attempt or uid in self._failed or cause is None:
                continue
            if cause.cause in _TOLD_AT_ONCE:
                self._failed.add(uid)
                words = failure_in_words(cause)
                if cause.cause == "memory":
                    self._killed, words = words, f"a worker was {words}"
                self.note(words)
                if taken is not None:
                    self._disruptions += 1
                    self._annotate(of_disruption(self._disruptions, words))
        return self._pods or []

    # -- what the job itself shows: in `kubectl describe trainjob`, and to `status`

    def _show_progress(self) -> None:
        now = self.cluster.clock.now()
        if self._progress is not None and now - self._shown >= ANNOTATION_SECONDS:
            event, self._progress, self._shown = self._progress, None, now
            self._annotate(of_progress(event))

    def _annotate(self, annotations: dict[str, str]) -> None:
        """Write annotations of the job, as far as that is allowed: nothing depends on them."""
        if self._annotates and not self.cluster.annotate(self.name, self.uid, annotations):
            self._annotates = False
            self.note("its annotations cannot be written: it does not show its progress")

    def _say_why_it_waits(self) -> None:
        if pods_run(self.job) or self._pods is None:
            return
        waiting = waiting_job(self.job, self._pods, [*self._warnings.values()])
        if waiting is not None and waiting.kind != "queue":
            self.note(waiting_in_words(waiting))

    def _hear(self, text: str) -> None:
        """A line of the first node's log: events are ours to pass on, the rest is for who reads this step's log."""
        event = event_of(text)
        if event is None:
            if settings().events is None:
                print(text, file=sys.stderr, flush=True)
            return
        try:
            if event["event"] == "checkpoint":
                self._judge_grace(event.get("seconds"))
            elif event["event"] == "progress" or (event["event"] == "note" and patience.told.is_news(event)):
                fields = {name: value for name, value in event.items() if name not in ("event", "step")}
                progress.emit(event["event"], self.work.step, **fields)
                if event["event"] == "progress" and event["unit"] == "images":
                    of_progress(event)  # which raises what the line above may have let pass
                    self._progress = event
        except (KeyError, TypeError, ValueError, ArithmeticError):
            pass  # not one of ours: it stands in the log

    def _judge_grace(self, seconds: Any) -> None:
        """Compare what a checkpoint takes with what pods are given; say once that it is not enough."""
        given = grace_of(self.job)
        if given is None or not isinstance(seconds, int | float) or self._told_grace:
            return
        if (needed := grace.needed(seconds)) > given:
            self._told_grace = True
            self.note(
                f"a checkpoint takes {seconds:.0f} s to be stored, and its pods have {given} s to end: when a node is taken away, "
                f"the last one may not be done: set trainjob.grace_seconds of the profile to {needed}"
            )

    def _cause(self, condition: dict[str, Any], begin: int) -> SidaError:
        reason, message = condition.get("reason", ""), " ".join(str(condition.get("message", "")).split())
        if reason == "DeadlineExceeded":
            limit = (self.job.get("spec") or {}).get("activeDeadlineSeconds")
            return TimedOut(f"{self._title} ran longer than {limit} s (timeout_seconds of the profile): {SUBMIT_AGAIN}")
        self._look_at_pods()
        if self._killed:
            return SidaError(f"{self._title}: a worker was {self._killed} (log: {self.work.log})")
        error = self.work.error()
        if error is not None and error.restart >= self._attempt:
            text = f"{self.work.step} failed: {error.message} ({self._title}, log: {self.work.log})"
            return failure(text, error.exit_code)
        cause, code = explain(self.work.log, begin, [])
        return failure(f"{self._title} failed ({reason}: {message}): {cause} (log: {self.work.log})", code)
