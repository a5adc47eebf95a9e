"""One TrainJob of a name, and only one: the one that is there is adopted; a new one is made once nothing of an old one is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sida.errors import SidaError, UserError
from sida.launch import trainjob_manifest as manifests
from sida.launch.cluster import Cluster, Refused
from sida.launch.job_state import SUSPENDED_BY, ended
from sida.launch.pod_logs import is_over, pods_of

DELETION_PATIENCE = 600.0  # seconds
Job = dict[str, Any]


class Start:
    """Makes the job of a manifest, or adopts it."""

    def __init__(
        self, cluster: Cluster, manifest: Job, note: Callable[[str], None], finished: Callable[[], bool]
    ) -> None:
        self._cluster, self._manifest, self._note, self._finished = cluster, manifest, note, finished
        self._name = str(manifest["metadata"]["name"])
        self._shown = f"TrainJob {cluster.namespace}/{self._name}"

    def job(self) -> Job:
        """Return the job that is there now. Raises UserError when it is another one's under the same name."""
        while True:
            if (job := self._cluster.get(self._name)) is None:
                self._wait_until_gone("the pods of the old one have ended", self._old_pods)
                try:
                    job = self._cluster.create(self._manifest)
                except Refused as error:
                    if error.status != 409:  # another launching step was faster: that job is there now
                        raise
                else:
                    self._note("created")
                    return job
            elif job["metadata"].get("deletionTimestamp"):
                self._wait_until_deleted(job)
            elif (end := ended(job)) is not None and not (end["type"] == "Complete" and self._finished()):
                self._note(f"an earlier attempt ended ({end['type']}): making it anew")
                self._cluster.delete(self._name, job["metadata"]["uid"])
                self._wait_until_deleted(job)
            else:
                self._adopt(job)
                return job

    def _adopt(self, job: Job) -> None:
        """Make a job that is there ours."""
        annotations, labels = (job["metadata"].get(field) or {} for field in ("annotations", "labels"))
        ours = self._manifest["metadata"]
        if ended(job) is None and annotations.get(manifests.SPEC) != ours["annotations"][manifests.SPEC]:
            raise UserError(
                f"{self._shown} is making this very result with another specification ({_difference(job, self._manifest)}): "
                f"wait for it, or `kubectl -n {self._cluster.namespace} delete trainjob {self._name}`, and run again"
            )
        changes: Job = {}
        if (run := ours["labels"].get(manifests.RUN)) and labels.get(manifests.RUN) != run:
            changes["metadata"] = {"labels": {manifests.RUN: run}}
        if annotations.get(SUSPENDED_BY):
            changes.setdefault("metadata", {})["annotations"] = {SUSPENDED_BY: None}
            changes["spec"] = {"suspend": False}
        if changes:
            self._cluster.patch(self._name, changes)
        self._note("adopted: it was there already")

    def _wait_until_deleted(self, old: Job) -> None:
        def left() -> list[str]:
            job = self._cluster.get(self._name)
            return [self._shown] if job is not None and job["metadata"]["uid"] == old["metadata"]["uid"] else []

        self._wait_until_gone("the old one is deleted", left)

    def _old_pods(self) -> list[str]:
        """Return the pods of a job of this name that have not ended: a new one's would find them under its own nodes' names."""
        pods = self._cluster.pods_now(pods_of(self._name)) or []
        return [f"pod {pod['metadata']['name']}" for pod in pods if not is_over(pod)]

    def _wait_until_gone(self, what: str, left: Callable[[], list[str]]) -> None:
        began = self._cluster.clock.now()
        while names := left():
            self._note(f"waiting until {what}")
            if self._cluster.clock.now() - began > DELETION_PATIENCE:
                raise SidaError(
                    f"{names[0]} is being deleted since {DELETION_PATIENCE:.0f} s: look at its finalizers and at its node, "
                    f"then run again"
                )
            self._cluster.pause(1.0)


def _difference(job: Job, wanted: Job) -> str:
    """Return the first fields in which two jobs differ, by path."""
    paths: list[str] = []

    def compare(a: Any, b: Any, path: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(b):  # what the server added is no difference
                compare(a.get(key), b[key], f"{path}.{key}" if path else key)
        elif a != b:
            paths.append(path)

    compare(job.get("spec"), wanted["spec"], "")
    return ", ".join(paths[:3]) or "queue, or fields that are no longer there"
