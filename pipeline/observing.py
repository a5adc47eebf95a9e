"""Gather what is known of a run on a cluster, from wherever this machine may look, and say in one line where it may not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from components.around import LOOK_UP
from pipeline import trainjobs
from pipeline.compile import EXIT_TASK
from pipeline.engines import naming
from pipeline.engines.argo_template import dashed
from pipeline.engines.run_state import RunState
from pipeline.remote import store_at_hand
from pipeline.result import RunSummary, read_recorded
from pipeline.standing import AT_WORK, BAD, Facts, Standing, standing
from sida import cancels, ending, records
from sida.launch.cluster import Cluster, understood
from sida.launch.job_state import queue_of, suspended
from sida.launch.looker import Looker, Looks, Unseen
from sida.launch.pod_logs import pods_of
from sida.launch.trainjob_manifest import STEP
from sida.registry import STEPS

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.stores.base import ObjectStore

ENGINES = {"kubeflow": "Kubeflow Pipelines", "argo": "Argo Workflows"}
Result = TypeVar("Result")


def names() -> dict[str, str]:
    """Return task name as engines have it -> step that a reader of the recipe knows."""
    return {dashed(step): step for step in (LOOK_UP, *STEPS, EXIT_TASK)}


def look_at_store(looks: Looks, profile: Profile, call: Callable[[ObjectStore], Result]) -> Result | None:
    """Return what ``call`` makes of the profile's store; None, and a note in ``looks``, where it is out of reach."""

    def look() -> Result:
        with store_at_hand(profile) as store:
            return call(store)

    return looks.look("records", profile.store, look)


class Observer:
    """Observer of one run, again and again. Nothing but the engine's own answer is needed for a standing."""

    def __init__(self, profile: Profile, run_id: str) -> None:
        self.run_id, self._profile, self._looks = run_id, profile, Looks()
        self._naming, self._engine = naming.NAMINGS[profile.engine], Looker(profile.namespace, self._looks)
        jobs = trainjobs.options(profile)
        self._jobs = Looker(jobs.namespace, self._looks) if jobs else None

    @property
    def missing(self) -> tuple[Unseen, ...]:
        """Return what the last look could not look at."""
        return tuple(self._looks.missing)

    def look(self, run: RunState) -> Standing:
        """Return how the run stands now; record a cancel that is not recorded yet."""
        self._looks.missing.clear()
        facts = Facts(ENGINES[self._profile.engine])
        look_at_store(self._looks, self._profile, lambda store: self._look_at_records(store, run, facts))
        if run.state != "SUCCEEDED":
            self._look_at_pods(run, facts)
            self._look_at_jobs(run, facts)
        return standing(run, facts, names())

    def settle(self, seen: Standing) -> None:
        """Record how the run ended, if its exit handler did not, or did not know; quietly if the store is out of reach."""
        end = seen.ending()
        if end is None or not end.sure:
            return

        def settle(store: ObjectStore) -> None:
            if records.calls(store, self.run_id):
                ending.settle(store, self.run_id, end)

        look_at_store(self._looks, self._profile, settle)

    def summary(self) -> RunSummary | None:
        """Return what came of a run that has ended well; None where it makes no comparison, or the store is out of reach."""
        self._looks.missing.clear()
        return look_at_store(self._looks, self._profile, lambda store: read_recorded(store, self.run_id))

    def _look_at_records(self, store: ObjectStore, run: RunState, facts: Facts) -> None:
        if run.cancelled and not run.ended:
            ending.cancel(store, self.run_id, f"seen in {ENGINES[self._profile.engine]}")
        facts.calls, facts.cancel = records.calls(store, self.run_id), cancels.cancel_of(store, self.run_id)

    def _look_at_pods(self, run: RunState, facts: Facts) -> None:
        """Look at the run's own pods, and at warnings and the Workflow only if they may explain something."""
        failed = {task.name for task in run.tasks if task.state in BAD}
        if not failed and not any(task.state in AT_WORK for task in run.tasks):
            return
        selector = self._naming.pods(run.run_id)
        pods = self._engine.look("pods", lambda cluster: cluster.pods(selector))
        if pods is not None:
            facts.pods, facts.pods_seen = self._naming.newest_pods(pods), True
            if any(_waits(pod) for pod in pods):
                facts.events = self._engine.look("events", Cluster.warnings) or ()
        if pods is None or failed or _has_none(run, facts.pods):
            nodes = self._engine.look(
                "workflows", lambda cluster: self._nodes(cluster, run.run_id), needed=pods is None
            )
            facts.nodes = nodes or ()
        for name in (name.removesuffix("-driver") for name in failed if name.endswith("-driver")):
            if driver := facts.pods.get(naming.Place(name, driver=True)):
                lines = self._engine.last_lines(driver["metadata"]["name"], naming.CONTAINER)
                if lines is not None:
                    facts.driver_errors[name] = naming.driver_error(lines)

    def _nodes(self, cluster: Cluster, run_id: str) -> list[naming.Node]:
        """Return the nodes of the run's Workflow; of Kubeflow's it is one of several."""
        if self._profile.engine == "argo":
            found = cluster.workflow(run_id)
            workflows = [found] if found is not None else []
        else:
            workflows = cluster.workflows(self._naming.pods(run_id))
        with understood(cluster.host):
            return self._naming.nodes(workflows)

    def _look_at_jobs(self, run: RunState, facts: Facts) -> None:
        if self._jobs is None:
            return
        jobs = self._jobs.look("trainjobs", lambda cluster: cluster.find(trainjobs.selector(self.run_id)))
        facts.jobs = {job["metadata"]["labels"][STEP]: job for job in jobs or ()}
        for step, job in facts.jobs.items():
            selector = pods_of(job["metadata"]["name"])
            if (pods := self._jobs.look("pods", partial(Cluster.pods, labels=selector))) is not None:
                facts.job_pods[step] = pods
        if facts.jobs and not run.ended:
            facts.job_events = self._jobs.look("events", Cluster.warnings) or ()
            if any(suspended(job) and queue_of(job) for job in facts.jobs.values()):
                facts.workloads = self._jobs.look("workloads", Cluster.workloads)


def _waits(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in (None, "Pending")


def _has_none(run: RunState, pods: dict[naming.Place, dict[str, Any]]) -> bool:
    """Return whether a task that the engine calls at work has no pod."""
    at_work = {task.name for task in run.tasks if task.state in AT_WORK}
    bases = {name.removesuffix("-driver") for name in at_work if name in names() or name.endswith("-driver")}
    return not bases <= {place.task for place in pods}
