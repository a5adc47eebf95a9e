"""The log of any step of a run on Kubeflow: its pod's while that exists, else the copy that was kept in the store at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline import argo, trainjobs
from pipeline.observing import KFP_NAMESPACE
from pipeline.remote import store_at_hand
from sida.errors import NotFound, SidaError, UserError
from sida.launch.cluster import Cluster
from sida.launch.looker import Looker, Unseen, in_a_line
from sida.launch.trainjob import TrainJobLauncher
from sida.layout import check_run_id, run_job_key
from sida.steps.log import read_log

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.stores import ObjectStore


class StepLog:
    """Log of one step, and the places to look for it."""

    def __init__(self, profile: Profile, run: str, step: str) -> None:
        self.run, self.step = check_run_id(run), step
        self._profile = profile
        self._unseen: list[Unseen] = []
        self._lookers: list[Looker] = []

    def lines(self, *, follow: bool) -> Iterator[str]:
        """Yield the lines; with ``follow`` until the pod ends. Raises UserError that names the places when there is none."""
        log = self._of_trainjob(follow) or self._of_pod(follow)
        if log is not None:
            return log
        text = self._kept()
        if text is not None:
            return iter(text.splitlines())
        unseen = in_a_line([unseen for looker in self._lookers for unseen in looker.missing] + self._unseen)
        raise UserError(
            f"run {self.run}, {self.step}: no log: it has not begun, or its pod is gone and left none in {self._profile.store}"
            f"{f' ({unseen})' if unseen else ''}: `status {self.run} --profile ...` says how it stands"
        )

    def _of_trainjob(self, follow: bool) -> Iterator[str] | None:
        """Return the log of the first node's newest pod."""
        if self._profile.trainjob is None or not trainjobs.launches(self._profile):
            return None
        looker = self._looker(self._profile.trainjob.namespace)
        jobs = looker.trainjobs(trainjobs.selector(self.run, self.step))
        if isinstance(jobs, Unseen) or not jobs:
            return None
        job = max(jobs, key=lambda job: str(job["metadata"].get("creationTimestamp")))
        cluster = Cluster(looker.namespace, outage_seconds=0.0)
        return TrainJobLauncher(cluster, job, looker=looker).log(follow=follow)

    def _of_pod(self, follow: bool) -> Iterator[str] | None:
        """Return the log of the step's own pod, or of its driver's if it came no further."""
        looker = self._looker(self._profile.kfp.namespace or KFP_NAMESPACE)
        for driver in (False, True):
            here = partial(_is_at, argo.Place(self.step.replace("_", "-"), driver))
            lines = looker.newest_log(self.step, argo.selector(self.run), argo.CONTAINER, here, follow=follow)
            if lines is not None:
                return argo.without_argo(lines)
        return None

    def _looker(self, namespace: str) -> Looker:
        self._lookers.append(Looker(namespace))
        return self._lookers[-1]

    def _kept(self) -> str | None:
        """Return the store's copy: the workers' log of a TrainJob, else the step's own."""
        try:
            with store_at_hand(self._profile) as store:
                return kept_log(store, self.run, self.step)
        except (SidaError, OSError) as error:
            self._unseen.append(Unseen("records", self._profile.store, str(error)))
            return None


def _is_at(place: argo.Place, pod: dict[str, Any]) -> bool:
    return argo.place(pod) == place


def kept_log(store: ObjectStore, run: str, step: str) -> str | None:
    """Return the store's log of a step that has ended; None when there is none."""
    try:
        folder = json.loads(store.read(run_job_key(run, step.partition(".")[0])))["folder"]
        if text := store.read(f"{folder}/log.txt").decode(errors="replace"):
            return text
    except NotFound:
        pass
    return read_log(store, run, step)
