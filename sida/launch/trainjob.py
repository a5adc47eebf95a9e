"""Heavy work as a TrainJob: start it or adopt the one that is there, follow it to its end, whatever happens in between.

The job's name follows from the step's key and attempt, so that a restarted launching step finds its job and never starts a second;
a new one is made once nothing of an old one is left. The job needs no launcher: it publishes to the store, and that is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from sida import patience, progress
from sida.errors import SidaError, UserError
from sida.launch.base import Launcher, Stopped, Work
from sida.launch.cluster import ApiRefused, Cluster, Unreachable, explain
from sida.launch.follower import Follower
from sida.launch.job_state import SUSPENDED_BY, division_of, ended, queue_of
from sida.launch.looker import Looker, Looks
from sida.launch.pod_logs import first_node, is_over, pods_of
from sida.launch.pod_state import taken_off
from sida.launch.trainjob_manifest import NODE, QUEUE, RUN, SPEC, STEP, TASK
from sida.launch.words import failure_in_words
from sida.process.signals import on_stop

ENDING_SECONDS = 20.0  # how long to try to end a job: whoever stops a launcher does not wait for long
DELETION_PATIENCE = 600.0  # seconds
_OUTCOMES = {
    "delete": "deleted; checkpoints are kept",
    "suspend": "suspended; checkpoints are kept, the next launching step lets it go on",
    "keep": "runs on; the next launching step follows it",
}


class TrainJobLauncher(Launcher):
    """The TrainJob of a manifest, or one that is there: ``job`` is either."""

    def __init__(
        self,
        cluster: Cluster,
        job: dict[str, Any],
        on_termination: Literal["delete", "suspend", "keep"] = "delete",
        looker: Looker | None = None,
    ) -> None:
        self.cluster, self.job, self._looker = cluster, job, looker or Looker(cluster.namespace, Looks())
        self.name, self.step = str(job["metadata"]["name"]), str(job["metadata"]["labels"][STEP])
        self._title = f"TrainJob {cluster.namespace}/{self.name}"
        self.asked = False  # somebody wants ``run`` to end
        self._on_termination = on_termination
        self._last_note = ""

    def run(self, work: Work) -> None:
        """Follow the job to its end. Raises UserError also when the cluster refuses it, or its API stays away too long."""

        def tick() -> None:
            work.check()
            if self.asked:
                raise Stopped(work.step)

        self.cluster.tick = tick
        doing = "create TrainJobs"
        with on_stop(self._ask), patience.ticking(tick):
            try:
                job = self._start(work.finished)
                if job is None:
                    return
                self.job, doing = job, "follow TrainJobs"
                try:
                    Follower(self.cluster, job, work, self._note).run()
                except Stopped:
                    self._let_go()
                    raise
            except ApiRefused as error:
                raise explain(error, doing, self.cluster.namespace) from error
            if work.finished():  # its result and its log are in the store: nothing is lost with the object
                self._impatient()
                try:
                    self.cluster.delete(self.name, self.job["metadata"]["uid"])
                except (ApiRefused, Unreachable) as error:
                    self._note(f"done, but could not be deleted: {error}")

    def settle(self, work: Work) -> None:
        """Follow a job to its end that had made its result while nobody followed it; then it goes, and its log is kept."""
        self.cluster.outage_seconds = ENDING_SECONDS
        try:
            self.run(work)
        except Stopped:
            raise
        except SidaError as error:
            self._note(f"its result is there; what is left of it could not be cleared away: {error}")

    def stop(self) -> str:
        """Delete or suspend it, as ``on_termination`` says. Raises UserError when the cluster refuses."""
        return self._end(self._on_termination)

    def _end(self, wish: Literal["delete", "suspend", "keep"]) -> str:
        if ended(self.job) is not None:
            return f"TrainJob {self.name}: had ended already"
        if wish == "suspend" and (self.job["metadata"].get("labels") or {}).get(QUEUE):
            wish = "delete"  # suspending is Kueue's way to make it wait: it would let it go on
        try:
            if wish == "delete":
                self.cluster.delete(self.name, self.job["metadata"]["uid"])
            elif wish == "suspend":  # its pods end, the object stays
                mark = {"annotations": {SUSPENDED_BY: "true"}}
                self.cluster.patch(self.name, {"metadata": mark, "spec": {"suspend": True}})
        except ApiRefused as error:
            raise explain(error, f"{wish} TrainJobs", self.cluster.namespace) from error
        return f"TrainJob {self.name}: {_OUTCOMES[wish]}"

    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return that of the first node's newest pod. Raises UserError when that waits, and nobody wants to wait with it."""
        return self._looker.newest_log(self.step, pods_of(self.name), NODE, first_node, follow=follow)

    def _note(self, text: str) -> None:
        """Tell the user, once."""
        if text != self._last_note:
            self._last_note = text
            progress.note(self.step, f"{self._title}: {text}")

    def _ask(self, number: int) -> None:
        self.asked = True

    def _impatient(self) -> None:
        self.cluster.tick, self.cluster.outage_seconds = lambda: None, ENDING_SECONDS

    def _let_go(self) -> None:
        self._impatient()
        try:
            own = self.cluster.own_pod()
            if (
                own is not None and (taken := taken_off(own)) is not None
            ):  # another takes its place, and follows the job
                progress.note(self.step, f"{failure_in_words(taken)}: {self._end('keep')}")
                return
            progress.note(self.step, self.stop())
        except SidaError as error:
            progress.note(self.step, f"TrainJob {self.name}: {error}: it ends when it finds itself abandoned")

    # -- one job of a name, and only one

    def _start(self, finished: Callable[[], bool]) -> dict[str, Any] | None:
        """Return the job that is there now; None where none is needed. Raises UserError when it is another one's of this name."""
        while True:
            if (job := self.cluster.get(self.name)) is None:
                if finished():
                    return None
                self._wait_until_gone("the pods of the old one have ended", self._old_pods)
                try:
                    job = self.cluster.create(self.job)
                except ApiRefused as error:
                    if error.status != 409:  # another launching step was faster: that job is there now
                        raise
                else:
                    self._note("created")
                    return job
            elif job["metadata"].get("deletionTimestamp"):
                self._wait_until_deleted(job)
            elif (why := self._out_of_date(job)) and not finished():
                self._note(f"{why}: making it anew")
                self.cluster.delete(self.name, job["metadata"]["uid"])
                self._wait_until_deleted(job)
            else:
                self._adopt(job)
                return job

    def _adopt(self, job: dict[str, Any]) -> None:
        """Make a job that is there ours."""
        annotations, labels = (job["metadata"].get(field) or {} for field in ("annotations", "labels"))
        ours, divided = self.job["metadata"], "" if ended(job) else self._divided_otherwise(job)
        if ended(job) is None and annotations.get(SPEC) != ours["annotations"][SPEC] and not divided:
            differ = _differences(job.get("spec"), self.job["spec"])
            fields = ", ".join(differ[:3]) or "queue, or fields that are no longer there"
            raise UserError(
                f"{self._title} is making this very result with another specification ({fields}): "
                f"wait for it, or `kubectl -n {self.cluster.namespace} delete trainjob {self.name}`, and run again"
            )
        changes: dict[str, Any] = {}
        if (run := ours["labels"].get(RUN)) and labels.get(RUN) != run:
            changes["metadata"] = {"labels": {RUN: run}}
        if annotations.get(SUSPENDED_BY):
            changes.setdefault("metadata", {})["annotations"] = {SUSPENDED_BY: None}
            changes["spec"] = {"suspend": False}
        if changes:
            self.cluster.patch(self.name, changes)
        more = f"; it {divided}: cancel the run and run it again for that" if divided else ""
        self._note(f"adopted: it was there already{more}")

    def _out_of_date(self, job: dict[str, Any]) -> str:
        """Say why a job that is there is no use any more, though what it has done is kept; empty where it is to go on."""
        annotations = job["metadata"].get("annotations") or {}
        if (end := ended(job)) is not None:
            return f"an earlier attempt ended ({end['type']})"
        waits = (job.get("spec") or {}).get("suspend") and (queue_of(job) or annotations.get(SUSPENDED_BY))
        return f"it waits, and {divided}" if waits and (divided := self._divided_otherwise(job)) else ""

    def _divided_otherwise(self, job: dict[str, Any]) -> str:
        """Say how a job of our task divides the work, where that is not as we would."""
        theirs, ours = division_of(job), division_of(self.job)
        same_task = (job["metadata"].get("annotations") or {}).get(TASK) == self.job["metadata"]["annotations"][TASK]
        return f"has {theirs}, and the profile now asks for {ours}" if same_task and theirs != ours else ""

    def _wait_until_deleted(self, old: dict[str, Any]) -> None:
        def left() -> list[str]:
            job = self.cluster.get(self.name)
            return [self._title] if job is not None and job["metadata"]["uid"] == old["metadata"]["uid"] else []

        self._wait_until_gone("the old one is deleted", left)

    def _old_pods(self) -> list[str]:
        """Return the pods of a job of this name that have not ended: a new one's would find them under its own nodes' names."""
        pods = self.cluster.pods_now(pods_of(self.name)) or []
        return [f"pod {pod['metadata']['name']}" for pod in pods if not is_over(pod)]

    def _wait_until_gone(self, what: str, left: Callable[[], list[str]]) -> None:
        began = self.cluster.clock.now()
        while names := left():
            self._note(f"waiting until {what}")
            if self.cluster.clock.now() - began > DELETION_PATIENCE:
                raise SidaError(
                    f"{names[0]} is being deleted since {DELETION_PATIENCE:.0f} s: look at its finalizers and at its node, "
                    f"then run again"
                )
            self.cluster.pause(1.0)


def _differences(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Return the fields in which two specifications differ, by path; what the server added is no difference."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        fields = ((name, f"{path}.{name}" if path else name) for name in sorted(ours))
        return [found for name, place in fields for found in _differences(theirs.get(name), ours[name], place)]
    return [path] if theirs != ours else []
