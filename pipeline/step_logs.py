"""The log of any step of a run on Kubeflow: its pod's while that is there, else the copy that was kept in the store at its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline import argo, trainjobs
from pipeline.observing import KFP_NAMESPACE
from pipeline.remote import store_at_hand
from sida.errors import NotFound, SidaError, UserError
from sida.launch.looker import Looker, Unseen, in_a_line
from sida.launch.manifest import NODE, RUN, STEP, label
from sida.launch.pod_logs import first_node, pods_of
from sida.launch.pod_state import waiting_of
from sida.launch.words import waiting_in_words
from sida.layout import check_run_id, run_job_key
from sida.step_log import read_log

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.stores import ObjectStore

POLL_SECONDS = 2.0


class StepLog:
    """Where the log of one step is looked for."""

    def __init__(self, profile: Profile, run: str, step: str) -> None:
        self.run, self.step = check_run_id(run), step
        self._profile = profile
        self._unseen: list[Unseen] = []

    def lines(self, *, follow: bool) -> Iterator[str]:
        """Line by line; with ``follow`` until the pod ends. Raises UserError when there is none, saying where was looked."""
        found = self._of_trainjob(follow) or self._of_pod(follow)
        if found is not None:
            return found
        text = self._kept()
        if text is not None:
            return iter(text.splitlines())
        unseen = in_a_line(self._unseen)
        raise UserError(
            f"run {self.run}, {self.step}: no log: it has not begun, or its pod is gone and left none in {self._profile.store}"
            f"{f' ({unseen})' if unseen else ''}: `status {self.run} --profile ...` says how it stands"
        )

    def _of_trainjob(self, follow: bool) -> Iterator[str] | None:
        """Of the first node's newest pod."""
        if self._profile.trainjob is None or not trainjobs.launches(self._profile):
            return None
        looker = Looker(self._profile.trainjob.namespace)
        jobs = self._seen(looker.trainjobs(f"{RUN}={label(self.run)},{STEP}={self.step}"))
        pods = [pod for job in jobs for pod in self._seen(looker.pods(pods_of(job["metadata"]["name"])))]
        return self._newest(looker, [pod for pod in pods if first_node(pod)], NODE, follow)

    def _of_pod(self, follow: bool) -> Iterator[str] | None:
        """Of the step's own pod; of its driver's where it has come no further."""
        looker = Looker(self._profile.kfp.namespace or KFP_NAMESPACE)
        there = argo.pods_by_place(self._seen(looker.pods(argo.selector(self.run))))
        task = self.step.replace("_", "-")
        for driver in (False, True):
            if pods := there.get(argo.Place(task, driver)):
                return self._newest(looker, pods, argo.CONTAINER, follow)
        return None

    def _seen(self, answer: list[dict[str, Any]] | Unseen) -> list[dict[str, Any]]:
        if isinstance(answer, Unseen):
            self._unseen.append(answer)
            return []
        return answer

    def _newest(self, looker: Looker, pods: list[dict[str, Any]], container: str, follow: bool) -> Iterator[str] | None:
        if not pods:
            return None
        pod = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        waiting = waiting_of(pod)
        told = ""
        while waiting is not None:
            said = f"{self.step} has no log yet: {waiting_in_words(waiting)}"
            if not follow:
                raise UserError(f"{said}: --follow waits for it")
            if said != told:
                told = said
                print(said, file=sys.stderr)
            time.sleep(POLL_SECONDS)
            again = looker.pods(_same(pod))
            here = [one for one in self._seen(again) if one["metadata"]["name"] == pod["metadata"]["name"]]
            if not here:
                return None
            pod = here[0]
            waiting = waiting_of(pod)
        opened = looker.log(pod["metadata"]["name"], container, follow=follow)
        if isinstance(opened, Unseen):
            self._unseen.append(opened)
            return None
        return argo.without_argo(opened)

    def _kept(self) -> str | None:
        """From the store: the workers' log of a TrainJob, else the step's own."""
        try:
            with store_at_hand(self._profile) as store:
                return kept_log(store, self.run, self.step)
        except (SidaError, OSError) as error:
            self._unseen.append(Unseen("records", self._profile.store, str(error)))
            return None


def kept_log(store: ObjectStore, run: str, step: str) -> str | None:
    """What the store holds of a step that has ended; None when there is nothing."""
    try:
        folder = json.loads(store.read(run_job_key(run, step.partition(".")[0])))["folder"]
        if text := store.read(f"{folder}/log.txt").decode(errors="replace"):
            return text
    except NotFound:
        pass
    return read_log(store, run, step)


def _same(pod: dict[str, Any]) -> str:
    """A label selector that finds the pod again."""
    labels = pod["metadata"].get("labels") or {}
    return ",".join(
        f"{name}={labels[name]}" for name in (argo.RUN_LABEL, "jobset.sigs.k8s.io/jobset-name") if name in labels
    )
