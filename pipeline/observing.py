"""Gather what is known of a run on Kubeflow, from wherever this machine may look, and say in one line where it may not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline import argo
from pipeline.compile import EXIT_TASK
from pipeline.remote import store_at_hand
from pipeline.run_state import RunState
from pipeline.standing import AT_WORK, BAD, Known, Standing, standing
from pipeline.trainjobs import launches, selector
from sida import ending, records
from sida.errors import SidaError
from sida.launch.looker import Looker, Unseen
from sida.launch.manifest import STEP
from sida.launch.pod_logs import pods_of
from sida.registry import STEPS

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.stores.base import ObjectStore

KFP_NAMESPACE = "kubeflow"
REST_SECONDS = 60.0  # after the store could not be read, before it is tried again


def names() -> dict[str, str]:
    """Return task name as KFP has it -> step that a reader of the recipe knows."""
    return {step.replace("_", "-"): step for step in (*STEPS, EXIT_TASK)}


class Observer:
    """Observer of one run, again and again. Nothing but Kubeflow Pipelines' own answer is needed for a standing."""

    def __init__(self, profile: Profile, run_id: str) -> None:
        self.run_id, self._profile = run_id, profile
        self._kfp = Looker(profile.kfp.namespace or KFP_NAMESPACE)
        self._jobs = Looker(profile.trainjob.namespace) if profile.trainjob and launches(profile) else None
        self._store_failed = (-REST_SECONDS, "")
        self.missing: list[Unseen] = []  # what the last look could not look at

    def look(self, run: RunState) -> Standing:
        """Return how the run stands now; record a cancel that is not recorded yet."""
        self.missing = []
        facts: dict[str, Any] = {}
        self._look_at_store(run, facts)
        self._look_at_pods(run, facts)
        self._look_at_jobs(run, facts)
        return standing(run, Known(**facts), names())

    def settle(self, seen: Standing) -> None:
        """Record how the run ended, if its exit handler did not, or did not know; quietly if the store is out of reach."""
        end = seen.ending()
        if end is not None and end.sure and not self._store_rests():
            with self._store() as store:
                if records.calls(store, self.run_id):
                    ending.settle(store, self.run_id, end)

    # -- the store

    def _store_rests(self) -> bool:
        """Return whether the store could not be read a moment ago."""
        since, why = self._store_failed
        rests = time.monotonic() - since < REST_SECONDS
        if rests:
            self.missing.append(Unseen("records", self._profile.store, why))
        return rests

    @contextmanager
    def _store(self) -> Iterator[ObjectStore]:
        """Yield the store; an error inside the block is noted as a place that could not be looked at."""
        try:
            with store_at_hand(self._profile) as store:
                yield store
        except (SidaError, OSError) as error:
            self._store_failed = (time.monotonic(), str(error))
            self.missing.append(Unseen("records", self._profile.store, str(error)))

    def _look_at_store(self, run: RunState, found: dict[str, Any]) -> None:
        if self._store_rests():
            return
        with self._store() as store:
            if run.cancelled and not run.ended:
                ending.cancel(store, self.run_id, "seen in Kubeflow Pipelines")
            found |= {"calls": records.calls(store, self.run_id), "cancel": ending.cancel_of(store, self.run_id)}

    # -- Kubernetes

    def _seen(self, answer: list[dict[str, Any]] | Unseen) -> list[dict[str, Any]] | None:
        if isinstance(answer, Unseen):
            self.missing.append(answer)
            return None
        return answer

    def _look_at_pods(self, run: RunState, found: dict[str, Any]) -> None:
        """Look at the run's own pods, and at warnings and the Workflow only if they may explain something."""
        failed = {task.name for task in run.tasks if task.state in BAD}
        at_work = any(task.state in AT_WORK for task in run.tasks)
        if run.state == "SUCCEEDED" or not (failed or at_work):
            return
        pods = self._seen(self._kfp.pods(argo.selector(run.run_id)))
        if pods is not None:
            found |= {"pods": argo.pods_by_place(pods), "pods_seen": True}
            if any(_waits(pod) for pod in pods):
                found["events"] = self._seen(self._kfp.warnings()) or ()
        if pods is None or failed or _has_none(run, found["pods"]):
            workflows = self._kfp.workflows(argo.selector(run.run_id))
            if not isinstance(workflows, Unseen):
                found["nodes"] = argo.nodes(workflows)
            elif pods is None:
                self.missing.append(workflows)
        errors = {}
        for name in (name.removesuffix("-driver") for name in failed if name.endswith("-driver")):
            if there := found.get("pods", {}).get(argo.Place(name, driver=True)):
                lines = self._kfp.last_lines(there[-1]["metadata"]["name"], argo.CONTAINER)
                if isinstance(lines, Unseen):
                    self.missing.append(lines)
                else:
                    errors[name] = argo.driver_error(lines)
        found["driver_errors"] = errors

    def _look_at_jobs(self, run: RunState, found: dict[str, Any]) -> None:
        if self._jobs is None or run.state == "SUCCEEDED":
            return
        jobs = self._seen(self._jobs.trainjobs(selector(self.run_id)))
        found["jobs"] = {job["metadata"]["labels"][STEP]: job for job in jobs or []}
        found["job_pods"] = {}
        for step, job in found["jobs"].items():
            if (pods := self._seen(self._jobs.pods(pods_of(job["metadata"]["name"])))) is not None:
                found["job_pods"][step] = pods
        if found["jobs"] and not run.ended:
            found["job_events"] = self._seen(self._jobs.warnings()) or ()


def _waits(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in (None, "Pending")


def _has_none(run: RunState, pods: dict[argo.Place, Any]) -> bool:
    """Return whether a task that Kubeflow calls at work has no pod."""
    at_work = {task.name for task in run.tasks if task.state in AT_WORK}
    bases = {name.removesuffix("-driver") for name in at_work if name in names() or name.endswith("-driver")}
    return any(
        argo.Place(base, driver=False) not in pods and argo.Place(base, driver=True) not in pods for base in bases
    )
