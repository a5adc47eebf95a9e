"""Heavy work as a TrainJob: start it or adopt the one that is there, follow it to its end, whatever happens in between.

The job's name follows from the step's key and attempt, so that a restarted launching step finds its job and never starts a second.
The job needs no launcher: it publishes to the store, and what it published is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from sida import patience, progress
from sida.errors import SidaError
from sida.launch.base import Launcher, Stopped, Work
from sida.launch.cluster import Cluster, Refused, Unreachable, explain
from sida.launch.follower import Follower
from sida.launch.job_state import SUSPENDED_BY, ended
from sida.launch.looker import Looker, Looks
from sida.launch.pod_logs import first_node, pods_of
from sida.launch.trainjob_manifest import NODE, QUEUE, STEP
from sida.launch.trainjob_start import Start
from sida.process.signals import on_stop

ENDING_SECONDS = 20.0  # how long to try to end a job: whoever stops a launcher does not wait for long
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
        self.name = str(job["metadata"]["name"])
        self.asked = False  # somebody wants ``run`` to end
        self._on_termination = on_termination
        self._last_note = ""

    def run(self, work: Work) -> None:
        """Follow the job to its end. Raises UserError also when the cluster refuses it, or its API stays away too long."""

        def tick() -> None:
            work.check()
            if self.asked:
                raise Stopped(work.step)

        def note(text: str) -> None:
            if text != self._last_note:
                self._last_note = text
                progress.note(work.step, f"TrainJob {self.cluster.namespace}/{self.name}: {text}")

        self.cluster.tick = tick
        doing = "create TrainJobs"
        with on_stop(self._ask), patience.ticking(tick):
            try:
                self.job = Start(self.cluster, self.job, note, work.finished).job()
                doing = "follow TrainJobs"
                try:
                    Follower(self.cluster, self.job, work, note).run()
                except Stopped:
                    self._let_go(work.step)
                    raise
            except Refused as error:
                raise explain(error, doing, self.cluster.namespace) from error
            if work.finished():  # its result and its log are in the store: nothing is lost with the object
                self._impatient()
                try:
                    self.cluster.delete(self.name, self.job["metadata"]["uid"])
                except (Refused, Unreachable) as error:
                    note(f"done, but could not be deleted: {error}")

    def stop(self) -> str:
        """Delete or suspend it, as ``on_termination`` says. Raises UserError when the cluster refuses."""
        if ended(self.job) is not None:
            return f"TrainJob {self.name}: had ended already"
        uid = self.job["metadata"]["uid"]
        wish = self._on_termination
        if wish == "suspend" and (self.job["metadata"].get("labels") or {}).get(QUEUE):
            wish = "delete"  # suspending is Kueue's way to make it wait: it would let it go on
        try:
            if wish == "delete":
                self.cluster.delete(self.name, uid)
            elif wish == "suspend":  # its pods end, the object stays
                mark = {"annotations": {SUSPENDED_BY: "true"}}
                self.cluster.patch(self.name, {"metadata": mark, "spec": {"suspend": True}})
        except Refused as error:
            raise explain(error, f"{wish} TrainJobs", self.cluster.namespace) from error
        return f"TrainJob {self.name}: {_OUTCOMES[wish]}"

    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return that of the first node's newest pod. Raises UserError when that waits, and nobody wants to wait with it."""
        step = self.job["metadata"]["labels"][STEP]
        return self._looker.newest_log(step, pods_of(self.name), NODE, first_node, follow=follow)

    def _ask(self, number: int) -> None:
        self.asked = True

    def _impatient(self) -> None:
        self.cluster.tick, self.cluster.outage_seconds = lambda: None, ENDING_SECONDS

    def _let_go(self, step: str) -> None:
        self._impatient()
        try:
            progress.note(step, self.stop())
        except SidaError as error:
            progress.note(step, f"TrainJob {self.name}: {error}: it ends when it finds itself abandoned")
