"""The standing of a run on a cluster, step by step: put together from all that is known of it, typed; words are made at the end.

The facts: the engine's states of tasks, the steps' own records, pods and warnings of both namespaces, the Workflow's
nodes, TrainJobs. Each may be missing (``pipeline.observing`` says which), and the engine's states alone never say why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engines.naming import Node, Place
from pipeline.engines.run_state import RunState, Task
from sida.cancels import Cancel, in_words
from sida.ending import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT, Ending
from sida.launch.job_state import job_in_words, waiting_job
from sida.launch.pod_state import Failure, Waiting, failed_pod, failure_of, refusal, taken_off, waiting_of
from sida.launch.words import failure_in_words, waiting_in_words
from sida.records import StepCall

WAITING, NOT_STARTED = "WAITING", "NOT STARTED"  # beside RUNNING, SUCCEEDED, FAILED ...
BAD = ("FAILED", "ERROR", "SYSTEM_ERROR")
AT_WORK = ("RUNNING", "PENDING")
_DELETED = ("pod deleted", "pod was deleted", "Pod was rejected")


@dataclass
class Facts:
    """Facts about a run beside the engine's own account; empty where they could not be looked at."""

    engine: str = "Kubeflow Pipelines"
    calls: dict[str, StepCall] = field(default_factory=dict)
    cancel: Cancel | None = None
    pods: dict[Place, dict[str, Any]] = field(default_factory=dict)  # the newest
    pods_seen: bool = False
    events: Sequence[dict[str, Any]] = ()  # warnings of the engine's namespace
    nodes: Sequence[Node] = ()
    driver_errors: dict[str, str] = field(default_factory=dict)  # task -> end of its driver's log
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)  # step -> TrainJob
    job_pods: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of those that may be looked at
    job_events: Sequence[dict[str, Any]] = ()
    workloads: Sequence[dict[str, Any]] | None = None  # Kueue's, where a TrainJob waits for it

    def message(self, place: Place, phase: str = "") -> str:
        """Return the Workflow's last word about a place, in this phase or any; empty when there is none."""
        nodes = (node for node in self.nodes if node.place == place and phase in ("", node.phase))
        return next((node.message for node in reversed([*nodes]) if node.message), "")


@dataclass(frozen=True)
class StepStanding:
    """State of one step."""

    name: str
    state: str
    waiting: Waiting | None = None
    failure: Failure | None = None
    reused: bool = False
    job: str = ""  # its TrainJob, in words
    ended: str = ""  # as the engine reports it, ISO 8601

    def reason(self) -> str:
        """Return why it waits or failed, in a line; empty when there is nothing to say."""
        if self.waiting is not None:
            return waiting_in_words(self.waiting)
        if self.failure is not None:
            return failure_in_words(self.failure)
        return "reused" if self.reused else self.job


@dataclass(frozen=True)
class Standing:
    """State of a run. ``state``: the engine's while it goes on, one of ``sida.ending.ENDINGS`` when it is over."""

    run: str
    name: str
    state: str
    steps: tuple[StepStanding, ...]
    message: str = ""  # why it ended so, its first cause; or what the engine says of one that goes on
    over: bool = False
    sure: bool = True  # False: it is over, and the reason is unknown

    def ending(self) -> Ending | None:
        """Return the ending for the run's record; None while it goes on."""
        return Ending(self.state, self.message, self.sure) if self.over else None


def standing(run: RunState, facts: Facts, names: Mapping[str, str]) -> Standing:
    """Combine all the facts. ``names``: the task's name as the engine has it -> the step, for the steps that a reader knows."""
    grouped: dict[str, list[Task]] = {}
    for task in run.tasks:
        if (step := names.get(task.name.replace("_", "-"))) is not None:
            grouped.setdefault(step, []).append(task)
    drivers = {task.name.removesuffix("-driver"): task for task in run.tasks if task.name.endswith("-driver")}
    for base in drivers:  # before its driver has ended, Kubeflow does not show the step itself
        if (step := names.get(base.replace("_", "-"))) is not None and step not in grouped:
            grouped[step] = [Task(base, "")]
    steps = [] if run.ended else [*_frames(drivers.values(), facts, names)]
    for step, tasks in grouped.items():
        driver = drivers.get(tasks[0].name)
        steps.append(_step(step, _joined(tasks), driver, facts, run.ended, _cancelled(run, facts)))
    for step in facts.jobs.keys() - grouped.keys():
        steps.append(_job_alone(step, facts))
    standings = tuple(steps)
    if not run.ended:
        return Standing(run.run_id, run.name, run.state, standings, run.error)
    state, message, sure = _ended(run, facts, standings)
    return Standing(run.run_id, run.name, state, standings, message, over=True, sure=sure)


def _frames(drivers: Iterable[Task], facts: Facts, names: Mapping[str, str]) -> Iterator[StepStanding]:
    """Yield the drivers of the whole and of the group around the steps that wait: then no step begins."""
    for task in drivers:
        base = task.name.removesuffix("-driver")
        waiting = _driver_waiting(base, facts) if task.state in AT_WORK and base not in names else None
        if waiting is not None:
            yield StepStanding(task.name, WAITING, waiting)


def _joined(tasks: Sequence[Task]) -> Task:
    """Return one of the many tasks of a step in a loop: the first that failed, else one at work."""
    order = (*BAD, *AT_WORK, SUCCEEDED)
    return min(tasks, key=lambda task: order.index(task.state) if task.state in order else len(order))


def _ended(run: RunState, facts: Facts, steps: Sequence[StepStanding]) -> tuple[str, str, bool]:
    """Return (one of ENDINGS, its first cause, whether that is known)."""
    if run.state in (SUCCEEDED, "SKIPPED"):
        return SUCCEEDED, "", True
    failed = sorted((step for step in steps if step.state == FAILED), key=lambda step: step.ended or "9")
    if _cancelled(run, facts) and (facts.cancel is not None or not failed):
        waited = next(
            (f"; {step.name}: {step.reason()}" for step in steps if step.failure and step.state == CANCELLED), ""
        )
        how = in_words(facts.cancel) if facts.cancel else f"cancelled at {run.cancelled} (in {facts.engine})"
        return CANCELLED, how + waited, True
    if failed:
        cause = failed[0].failure.cause if failed[0].failure is not None else "unknown"
        return (
            TIMED_OUT if cause == "deadline" else FAILED,
            f"{failed[0].name}: {failed[0].reason()}",
            cause != "unknown",
        )
    for task in run.tasks:  # a driver of the whole, or of the group around the steps
        if task.state in BAD and task.name.endswith("-driver"):
            named = Task(task.name.removesuffix("-driver"), task.state)
            return FAILED, f"{task.name}: {failure_in_words(_driver_failure(named, facts))}", True
    return FAILED, run.error, bool(run.error)


def _cancelled(run: RunState, facts: Facts) -> str:
    """Return when the run's end was asked for, ISO 8601; empty when it was not."""
    return run.cancelled or (facts.cancel.asked if facts.cancel is not None else "")


# -- one step


def _step(step: str, task: Task, driver: Task | None, facts: Facts, over: bool, cancelled: str) -> StepStanding:
    call = facts.calls.get(step)
    state, ended = task.state, task.ended
    driver_failed = driver is not None and driver.state in BAD
    if state == SUCCEEDED:
        return StepStanding(step, state, reused=call is not None and call.state == "reused", ended=ended)
    if state in BAD or driver_failed:
        ended = ended or (driver.ended if driver is not None else "")
        failure = _failure(step, task, facts, driver_failed)
        if cancelled and (not ended or ended >= cancelled):  # it was torn down, whatever error it reported
            return StepStanding(step, CANCELLED, failure=failure if failure.cause == "never" else None, ended=ended)
        return StepStanding(step, FAILED, failure=failure, ended=ended)
    if not over and not state and driver is not None and driver.state in AT_WORK:
        waiting = _driver_waiting(task.name, facts)
        return StepStanding(step, WAITING if waiting is not None else NOT_STARTED, waiting)
    if over or state not in AT_WORK:
        return StepStanding(step, state or NOT_STARTED, ended=ended)
    waiting = _waiting(step, task, facts)
    job = job_in_words(facts.jobs[step]) if step in facts.jobs else ""
    return StepStanding(step, WAITING if waiting is not None else state, waiting, job=job)


def _job_alone(step: str, facts: Facts) -> StepStanding:
    """Return the standing of a TrainJob whose step Kubeflow does not show."""
    waiting = waiting_job(facts.jobs[step], facts.job_pods.get(step), facts.job_events, facts.workloads)
    return StepStanding(step, WAITING if waiting is not None else "", waiting, job=job_in_words(facts.jobs[step]))


def _waiting(step: str, task: Task, facts: Facts) -> Waiting | None:
    """Return why a step that Kubeflow calls RUNNING does not begin."""
    if step in facts.jobs:
        return waiting_job(facts.jobs[step], facts.job_pods.get(step), facts.job_events, facts.workloads)
    place = Place(task.name, driver=False)
    if pod := facts.pods.get(place):
        return waiting_of(pod, facts.events)
    return _driver_waiting(task.name, facts) or _refused(place, facts)


def _driver_waiting(task: str, facts: Facts) -> Waiting | None:
    """Return why a task's driver does not begin. Its usual few seconds are not worth a word."""
    place = Place(task, driver=True)
    if pod := facts.pods.get(place):
        waiting = waiting_of(pod, facts.events)
        return waiting if waiting is not None and waiting.kind != "starting" else None
    return _refused(place, facts)


def _refused(place: Place, facts: Facts) -> Waiting | None:
    """Return why there is no pod at all, from the Workflow's own words."""
    message = facts.message(place, "Pending")
    return refusal(message, place.task) if message else None


def _failure(step: str, task: Task, facts: Facts, driver_failed: bool) -> Failure:
    """Return why its pod was taken off the node; else the step's own error; what Kubernetes did to it; Argo's account."""
    call, place = facts.calls.get(step), Place(task.name, driver=False)
    if (pod := facts.pods.get(place)) and (gone := taken_off(pod)) is not None:
        return gone  # whatever it said when it was asked to end
    if call is not None and call.state == "failed" and call.error:
        return Failure("deadline" if call.timed_out else "error", said=call.error)
    if driver_failed:
        return _driver_failure(task, facts)
    if pod:
        if (failure := failure_of(pod)) is not None:
            # The pod of a launching step only passes on what became of the TrainJob's.
            behind = failed_pod(facts.job_pods.get(step, ())) if failure.cause == "exit" else None
            return behind or failure
        if (stuck := waiting_of(pod, facts.events)) is not None and not stuck.passes:
            return Failure("never", detail=waiting_in_words(stuck))
    if message := facts.message(place):
        return _from_argo(message)
    if task.error:
        return Failure("error", said=task.error)
    return Failure("unknown", said="" if facts.pods_seen else "nothing that can be looked at from here says why")


def _driver_failure(task: Task, facts: Facts) -> Failure:
    place = Place(task.name, driver=True)
    pod, message = facts.pods.get(place), facts.message(place)
    if message and (failure := _from_argo(message)).cause in ("never", "deleted"):
        return failure
    text = facts.driver_errors.get(task.name) or message
    return Failure("driver", str(pod["metadata"]["name"]) if pod else "", text)


def _from_argo(message: str) -> Failure:
    """Read a node's message, which outlives its pod: ``main: OOMKilled (exit code 137)``."""
    if "OOMKilled" in message:
        return Failure("memory")
    if any(word in message for word in _DELETED):
        return Failure("deleted")
    if "deadline" in message.lower():
        return Failure("deadline")
    refused = refusal(message, "")
    if refused.kind in ("quota", "policy"):
        return Failure("never", detail=waiting_in_words(refused))
    return Failure("exit", detail=message)
