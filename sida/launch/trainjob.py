"""Heavy work as a TrainJob: start it or adopt the one that is there, follow it to its end, whatever happens in between.

The job's name follows from the step's key and attempt, so that a restarted launching step finds its job and never starts a second.
The job needs no launcher: it publishes to the store, and what it published is what counts.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sida import patience, progress
from sida.errors import SidaError, TimedOut, Unavailable, UserError
from sida.launch import manifest as manifests
from sida.launch.cluster import Clock, Cluster, Refused, Unreachable, explain, passing
from sida.launch.job_state import SUSPENDED_BY, condition, end_job, ended
from sida.launch.log import explain as explain_log
from sida.launch.log import failure
from sida.launch.pod_logs import FirstNode, event_of, is_over, pods_of
from sida.launch.pod_state import attempt_of, failure_of, waiting_job
from sida.launch.target import Target
from sida.launch.watching import LISTED, REFUSED, Seen, start_watch
from sida.launch.words import failure_in_words, waiting_in_words
from sida.launch.worker_error import WorkerError
from sida.process.signals import on_stop
from sida.progress import duration
from sida.settings import settings

TICK_SECONDS = 1.0
CREATION_PATIENCE = 120.0  # so long may the controller fail to create what the job consists of
DELETION_PATIENCE = 600.0
LOOK_SECONDS = 10.0  # between two looks at pods that do not begin
LOG_PATIENCE = 30.0  # to read the rest of the log
RESULT_SECONDS = 60.0  # between looks into the store while the API server is away
_TOLD_AT_ONCE = ("memory", "evicted")  # of other causes the log tells
SUBMIT_AGAIN = "checkpoints are kept: run the step again to continue"


@dataclass
class Following:
    """What the launching step gives to the loop."""

    step: str
    target: Target
    manifest: dict[str, Any]
    log_path: Path
    on_tick: Callable[[], None]
    finished: Callable[[], bool]  # whether the result is in the store
    error: Callable[[], WorkerError | None] = lambda: None  # what a worker published of its failure
    keep_log: Callable[[], object] = lambda: None  # when it has ended
    stop: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=Clock)


def run_trainjob(what: Following) -> bool:
    """Run the job to its end; False when we were asked to stop before.

    Raises UserError when the cluster refuses the job or a worker names a user's mistake, SidaError when it failed, was deleted by
    somebody, or the API server stayed away too long.
    """
    cluster = Cluster(what.target.namespace, outage_seconds=what.target.outage_seconds, clock=what.clock)
    return _Run(what, cluster).run()


class _Run:
    def __init__(self, what: Following, cluster: Cluster) -> None:
        self.what, self.cluster = what, cluster
        self.name = str(what.manifest["metadata"]["name"])
        self.shown = f"TrainJob {what.target.namespace}/{self.name}"
        self.stopping = False
        self.uid = ""
        self.status: dict[str, Any] = {}
        self.failures: list[tuple[float, str]] = []  # creation failures: when first seen, message
        self.warnings: list[dict[str, Any]] = []
        self._failed: set[str] = set()  # pods of which it was told why
        self._attempt = 0  # the job's last start
        self._killed = ""  # that one of its pods was killed for memory, in words
        self._looked = 0.0
        self._told = ""
        cluster.tick = self._tick

    def run(self) -> bool:
        with on_stop(self._asked_to_stop), patience.ticking(self._tick):
            doing = "create TrainJobs"
            try:
                job = self._create_or_adopt()
                self.uid, doing = job["metadata"]["uid"], "follow TrainJobs"
                return self._follow(job)
            except Refused as error:
                raise explain(error, doing, self.what.target.namespace) from error
            except _Stopped:
                return False

    def _asked_to_stop(self, number: int) -> None:
        self.stopping = True

    def _tick(self) -> None:
        """Between two looks: is the lease still ours, has somebody asked us to stop?"""
        self.what.on_tick()
        if self.stopping or self.what.stop():
            raise _Stopped

    def _note(self, text: str) -> None:
        if text != self._told:
            self._told = text
            progress.note(self.what.step, f"{self.shown}: {text}")

    # -- there must be one, and only one

    def _create_or_adopt(self) -> dict[str, Any]:
        while True:
            if (there := self.cluster.get(self.name)) is not None:
                if (job := self._adopted(there)) is not None:
                    return job
                continue
            self._wait_until_gone("the pods of the old one have ended", self._old_pods)
            try:
                made = self.cluster.create(self.what.manifest)
            except Refused as error:
                if error.status != 409:  # another launching step was faster: that job is there now
                    raise
            else:
                self._note("created")
                return made

    def _adopted(self, there: dict[str, Any]) -> dict[str, Any] | None:
        """The job that is there, if it is to be followed; None when its name is free, or soon will be."""
        metadata = there["metadata"]
        if metadata.get("deletionTimestamp"):
            self._wait_until_deleted(metadata["uid"])
            return None
        end = ended(there)
        if end is not None and not (end[0] == "Complete" and self.what.finished()):
            self._note(f"an earlier attempt ended ({end[0]}): making it anew")
            self.cluster.delete(self.name, metadata["uid"])
            self._wait_until_deleted(metadata["uid"])
            return None
        theirs = (metadata.get("annotations") or {}).get(manifests.SPEC)
        wanted = self.what.manifest["metadata"]["annotations"][manifests.SPEC]
        if theirs != wanted and end is None:
            raise UserError(
                f"{self.shown} is making this very result with another specification ({_difference(there, self.what.manifest)}): "
                f"wait for it, or `kubectl -n {self.what.target.namespace} delete trainjob {self.name}`, and run again"
            )
        changes: dict[str, Any] = {}
        labels = self.what.manifest["metadata"]["labels"]
        if (run := labels.get(manifests.RUN)) and (metadata.get("labels") or {}).get(manifests.RUN) != run:
            changes["metadata"] = {"labels": {manifests.RUN: run}}
        if (metadata.get("annotations") or {}).get(SUSPENDED_BY):
            changes.setdefault("metadata", {})["annotations"] = {SUSPENDED_BY: None}
            changes["spec"] = {"suspend": False}
        if changes:
            self.cluster.patch(self.name, changes)
        self._note("adopted: it was there already")
        return there

    def _wait_until_deleted(self, uid: str) -> None:
        def left() -> list[str]:
            there = self.cluster.get(self.name)
            return [self.shown] if there is not None and there["metadata"]["uid"] == uid else []

        self._wait_until_gone("the old one is deleted", left)

    def _old_pods(self) -> list[str]:
        """Pods of a job of this name that have not ended: a new one's would find them under its own nodes' names."""
        return [f"pod {pod['metadata']['name']}" for pod in self._pods() or [] if not is_over(pod)]

    def _wait_until_gone(self, what: str, left: Callable[[], list[str]]) -> None:
        began, never = self.cluster.clock.now(), threading.Event()
        while names := left():
            self._note(f"waiting until {what}")
            if self.cluster.clock.now() - began > DELETION_PATIENCE:
                raise SidaError(
                    f"{names[0]} is being deleted since {DELETION_PATIENCE:.0f} s: look at its finalizers and at its node, "
                    f"then run again"
                )
            self._tick()
            self.cluster.clock.wait(never, TICK_SECONDS)

    # -- following

    def _follow(self, job: dict[str, Any]) -> bool:
        seen: queue.Queue[Seen] = queue.Queue()
        stop = threading.Event()
        self.what.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.what.log_path.open("a", encoding="utf-8") as log:
            begin = log.seek(0, 2)

            def line(text: str) -> None:
                log.write(text + "\n")
                log.flush()
                self._hear(text)

            node = FirstNode(self.name, self.cluster, line, self._note)
            try:
                for kind, name in (
                    ("trainjobs", self.name),
                    ("events", self.name),
                    ("events", f"{self.name}-node-0"),
                    ("pods", pods_of(self.name)),
                ):
                    start_watch(kind, name, self.cluster, seen, stop)
                node.start()
                failed = self._wait(job, seen)
                node.finish(LOG_PATIENCE if self.cluster.reach.silent_for() < RESULT_SECONDS else 0)
            except _Stopped:
                self._let_go()
                return False
            finally:
                stop.set()
                node.finish(0)
        try:
            self.what.keep_log()
        except Unavailable as error:
            self._note(f"its log is not kept: {error}")
        if failed is not None:
            raise self._cause(failed, begin)
        if self.what.finished():  # its result and its log are in the store: nothing is lost with the object
            self.cluster.outage_seconds = 20.0
            try:
                self.cluster.delete(self.name, self.uid)
            except (Refused, Unreachable) as error:
                self._note(f"done, but could not be deleted: {error}")
        return True

    def _wait(self, job: dict[str, Any], seen: queue.Queue[Seen]) -> dict[str, Any] | None:
        """None when the job is complete, or its result is there; else the condition that says that it failed."""
        clock = self.cluster.clock
        looked = clock.now()
        message: Seen | None = ("trainjobs", "MODIFIED", job)
        while True:
            if message is not None:
                end = self._take(*message)
                if end is not None:
                    return None if end["type"] == "Complete" else end
            self._tick()
            self._judge_creation()
            if clock.now() - self._looked > LOOK_SECONDS:
                self._looked = clock.now()
                self._look()
            silent = self.cluster.reach.silent_for()
            if silent > RESULT_SECONDS * 1.5:
                self._note(
                    f"the Kubernetes API does not answer since {duration(silent - silent % 60)}; the job runs on"
                )
                if clock.now() - looked > RESULT_SECONDS:
                    looked = clock.now()
                    if self.what.finished():
                        return None
            if silent > self.what.target.outage_seconds:
                raise Unreachable(
                    f"{self.shown}: the Kubernetes API at {self.cluster.host} has not answered for {duration(silent)}; "
                    f"the job runs on: run the step again to follow it"
                )
            try:
                message = seen.get(timeout=TICK_SECONDS / clock.speed)
            except queue.Empty:
                message = None

    def _take(self, kind: str, what: str, seen: Any) -> dict[str, Any] | None:
        """One thing that a watch saw; the condition that ended the job, if it has ended."""
        if what == REFUSED:
            if kind == "pods":
                return None  # whoever may not look is told by what ends badly
            if kind == "events":
                self._note(f"its events cannot be read ({seen}): why it is not created will not be known")
                return None
            raise explain(seen, "watch TrainJobs", self.what.target.namespace)
        take = {"events": self._take_event, "pods": self._take_pod}.get(kind)
        if take is not None:
            for one in seen if what == LISTED else [seen]:
                take(one)
            return None
        if what == LISTED:
            ours = [job for job in seen if job["metadata"]["uid"] == self.uid]
            return self._take_job(ours[0]) if ours else self._gone(bool(seen))
        if seen["metadata"]["uid"] != self.uid:
            return self._gone(True) if what == "ADDED" else None
        return self._gone(False) if what == "DELETED" else self._take_job(seen)

    def _gone(self, another: bool) -> dict[str, Any]:
        if self.what.finished():
            return {"type": "Complete"}
        how = "was deleted and made anew by somebody else" if another else "was deleted by somebody else (kubectl?)"
        raise SidaError(f"{self.shown} {how}: {SUBMIT_AGAIN}")

    def _take_job(self, job: dict[str, Any]) -> dict[str, Any] | None:
        self.status = job.get("status") or {}
        end = condition(self.status, "Complete") or condition(self.status, "Failed")
        if end is not None:
            return end
        suspended = condition(self.status, "Suspended")
        if suspended is not None:
            queued = f"waits in queue {self.what.target.queue}" if self.what.target.queue else "is suspended"
            self._note(f"{queued}: {suspended.get('message', '')}".rstrip(": "))
        else:
            for counts in self.status.get("jobsStatus") or []:
                if counts.get("ready"):
                    self._note("its pods run")
        if self.status.get("jobsStatus"):
            self.failures.clear()
        return None

    def _take_event(self, event: dict[str, Any]) -> None:
        about = event.get("involvedObject") or {}
        if event.get("type") != "Warning" or (about.get("kind") == "TrainJob" and about.get("uid") != self.uid):
            return
        message = " ".join(str(event.get("message", "")).split())
        self.warnings = [*self.warnings[-99:], event]
        if about.get("kind") != "Job":  # what a Job cannot make is told as long as it is missing
            self._note(f"{event.get('reason')}: {message}")
        if event.get("reason") == "TrainJobResourcesCreationFailed" and not self.status.get("jobsStatus"):
            self.failures.append((self.cluster.clock.now(), message))

    def _take_pod(self, pod: dict[str, Any]) -> None:
        """Why one failed is told at once: a restart of the job deletes it, and what it knew."""
        if (attempt := attempt_of(pod)) > self._attempt:
            self._attempt, self._killed = attempt, ""
        failure, uid = failure_of(pod), pod["metadata"]["uid"]
        if attempt < self._attempt or uid in self._failed or failure is None or failure.cause not in _TOLD_AT_ONCE:
            return
        self._failed.add(uid)
        words = failure_in_words(failure)
        if failure.cause == "memory":
            self._killed, words = words, f"a worker was {words}"
        self._note(words)

    def _look(self) -> None:
        """Say why pods do not begin, or are not all there; whoever may not look is told by what ends badly."""
        if any(counts.get("ready") for counts in self.status.get("jobsStatus") or []):
            return
        if (pods := self._pods()) is None:
            return
        job = self.what.manifest | {"status": self.status}
        if (waiting := waiting_job(job, pods, self.warnings)) is not None and waiting.kind != "queue":
            self._note(waiting_in_words(waiting))

    def _pods(self) -> list[dict[str, Any]] | None:
        """Its pods; None where they cannot be seen now, or may not."""
        try:
            return self.cluster.pods(pods_of(self.name), repeat=False)
        except Exception as error:
            if not isinstance(error, Refused) and passing(error) is None:
                raise
            return None

    def _judge_creation(self) -> None:
        """Creation failures never reach the status: a job that cannot be created would be waited for for ever."""
        if self.failures and self.cluster.clock.now() - self.failures[0][0] > CREATION_PATIENCE:
            self.cluster.delete(self.name, self.uid)
            raise UserError(
                f"{self.shown} could not be created: {self.failures[-1][1]}: correct runtime, resources or quota (see the "
                f"profile), then run again"
            )

    def _hear(self, text: str) -> None:
        """A line of the first node's log: events are ours to pass on, the rest is for who reads this step's log."""
        event = event_of(text)
        if event is None:
            if settings().events is None:
                print(text, file=sys.stderr, flush=True)
        elif event["event"] == "progress" or (event["event"] == "note" and patience.told.is_news(event)):
            fields = {name: value for name, value in event.items() if name not in ("event", "step")}
            try:
                progress.emit(event["event"], self.what.step, **fields)
            except (KeyError, TypeError, ValueError):
                pass  # not one of ours: it stands in the log

    # -- ends

    def _let_go(self) -> None:
        """We were asked to stop: what becomes of the job is the profile's to say."""
        self.cluster.tick = lambda: None
        self.cluster.outage_seconds = 20.0  # whoever stops us will not wait for long
        wish = self.what.target.on_termination
        if self.what.target.queue and wish == "suspend":
            wish = "delete"  # suspending is Kueue's way to make it wait: it would let it go on
        try:
            end_job(self.cluster, self.name, self.uid, wish)
        except (Refused, Unreachable) as error:
            progress.note(
                self.what.step, f"{self.shown}: could not {wish} it ({error}): it ends when it finds itself abandoned"
            )
        else:
            progress.note(self.what.step, f"{self.shown}: {_DONE[wish]}")

    def _cause(self, condition: dict[str, Any], begin: int) -> SidaError:
        reason, said = condition.get("reason", ""), " ".join(str(condition.get("message", "")).split())
        if reason == "DeadlineExceeded":
            limit = self.what.target.deadline_seconds
            return TimedOut(f"{self.shown} ran longer than {limit} s (timeout_seconds of the profile): {SUBMIT_AGAIN}")
        for pod in self._pods() or []:
            self._take_pod(pod)
        if self._killed:
            return SidaError(f"{self.shown}: a worker was {self._killed} (log: {self.what.log_path})")
        error = self.what.error()
        if error is not None and error.restart >= self._attempt:
            text = f"{self.what.step} failed: {error.message} ({self.shown}, log: {self.what.log_path})"
            return failure(text, error.exit_code)
        cause, code = explain_log(self.what.log_path, begin, 1, None)
        return failure(f"{self.shown} failed ({reason}: {said}): {cause} (log: {self.what.log_path})", code)


class _Stopped(Exception):
    """Somebody asked us to stop."""


_DONE = {
    "delete": "deleted; checkpoints are kept",
    "suspend": "suspended; the next launching step lets it go on",
    "keep": "runs on; the next launching step follows it",
}


def _difference(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first fields in which two jobs differ, by path."""
    found: list[str] = []

    def compare(a: Any, b: Any, path: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(b):  # what the server added is no difference
                compare(a.get(key), b[key], f"{path}.{key}" if path else key)
        elif a != b:
            found.append(path)

    compare(there.get("spec"), wanted["spec"], "")
    return ", ".join(found[:3]) or "queue, or fields that are no longer there"
