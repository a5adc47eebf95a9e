"""The end of a run, in one vocabulary: SUCCEEDED, FAILED, CANCELLED, TIMED OUT.

The steps' own records decide, for Kubeflow Pipelines tells its exit handler less than they do: COMPLETE, FAILED, or RUNNING of a
run that was cancelled or whose driver died, and never why. A request to end a run is recorded in ``runs/<run>/cancel.json``. A
run whose exit handler never ran is settled by the next command that looks at it: ``status``, ``track``, or the next run on the
same machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sida import layout
from sida.cancels import Cancel, cancel_of, in_words
from sida.errors import AlreadyExists, SidaError
from sida.manifests import Regression, RunResult
from sida.masking import masked
from sida.process.identity import Process, machine_id
from sida.records import RunEnd, StepCall, calls, end_of, kept, made_by, now, to_json
from sida.scoring import words
from sida.settings import settings
from sida.stores import open_store
from sida.stores.base import ObjectStore
from sida.webhook import tell

SUCCEEDED, FAILED, CANCELLED, TIMED_OUT = ENDINGS = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED OUT")
RECENT_RUNS = 6  # which a new run looks at
LAST = "report"  # the step that the DAG of a recipe ends with: it needs all others
_EARLIER = {"COMPLETE": SUCCEEDED, "CANCELED": CANCELLED}  # Kubeflow's words in records of earlier versions


@dataclass(frozen=True)
class Ending:
    """End of a run; ``message`` is empty for one that succeeded."""

    state: str
    message: str = ""
    sure: bool = True  # False: it is over, and the reason is unknown


def cancel(store: ObjectStore, run: str, how: str) -> bool:
    """Record a request to end the run; False when one is recorded already, or a step had failed before."""
    if _first_failed(calls(store, run)):
        return False
    mark = Cancel(run=run, asked=now(), how=how)
    try:
        store.put_if_absent(layout.cancel_key(run), to_json(mark))
    except AlreadyExists:
        return False
    return True


# -- judging


def ending_of(store: ObjectStore, run: str, recorded: Mapping[str, StepCall] | None = None) -> Ending | None:
    """Return how a recorded run ended, as far as the store tells; None while it may go on."""
    recorded = calls(store, run) if recorded is None else recorded
    return judge(recorded, end_of(store, run), cancel_of(store, run))


def judge(recorded: Mapping[str, StepCall], end: RunEnd | None, request: Cancel | None) -> Ending | None:
    """Return the ending that these records show; see ``ending_of``."""
    failed = _first_failed(recorded)
    reason = f"{failed.name}: {failed.error}" if failed else ""
    if not failed and LAST in recorded and recorded[LAST].manifest:
        return Ending(SUCCEEDED)  # also when the run had failed, and its steps were run again one by one
    if end is not None and (state := _known(end)):
        if state == SUCCEEDED:
            return Ending(SUCCEEDED)
        return Ending(state, end.message if state == CANCELLED else reason or end.message)
    if request is not None:
        return Ending(CANCELLED, in_words(request))
    if failed:
        return Ending(TIMED_OUT if failed.timed_out else FAILED, reason)
    if end is not None:
        return Ending(FAILED, end.message or _standstill(recorded), sure=False)
    return None


def _first_failed(recorded: Mapping[str, StepCall]) -> StepCall | None:
    """Return the first call that failed; failures that a run of many recipes goes on without do not count."""
    return next((call for call in recorded.values() if call.state == "failed" and not call.item), None)


def _known(end: RunEnd) -> str:
    """Return the ending that a record is sure of, in today's words; empty if there is none."""
    state = _EARLIER.get(end.state, end.state)
    return state if end.sure and state in ENDINGS else ""


def _standstill(recorded: Mapping[str, StepCall]) -> str:
    """Describe how far a run was when it ended without a word."""
    at_work = [name for name, call in recorded.items() if call.state == "started"]
    done = [name for name, call in recorded.items() if call.state in ("ran", "reused")]
    if at_work:
        place = f"it ended while {', '.join(at_work)} {'was' if len(at_work) == 1 else 'were'} at work"
    else:
        place = f"it ended after {done[-1]}, before the next step ran" if done else "it ended before a step ran"
    return f"{place}: `status RUN --profile PROFILE` looks for the reason"


# -- recording


def end_by_records(run: str, recipe: str, kfp_state: str, code: int, message: str) -> RunEnd:
    """Record a run's end for the exit handler, from the steps' records and the state that Kubeflow Pipelines gives."""
    store = open_store(settings().store)
    recorded = calls(store, run)
    outcome = judge(recorded, None, cancel_of(store, run))
    if outcome is None and kfp_state in ("COMPLETE", SUCCEEDED):
        outcome = Ending(SUCCEEDED)
    elif outcome is None or (outcome.state == SUCCEEDED and kfp_state == FAILED):
        lost = next((f"{name}: {call.error}" for name, call in recorded.items() if call.state == "failed"), "")
        reason = message or lost
        outcome = Ending(FAILED, reason or _standstill(recorded), sure=bool(reason))
    return end_run(run, recipe, outcome.state, code, outcome.message, sure=outcome.sure)


def settle(store: ObjectStore, run: str, ending: Ending) -> bool:
    """Record an ending that is known for sure, if none is recorded or the reason was unknown; return whether it was recorded."""
    there = end_of(store, run)
    if not ending.sure or (there is not None and _known(there)):
        return False
    recorded = calls(store, run)
    recipe = there.recipe if there is not None else next((call.recipe for call in recorded.values()), "")
    code = 0 if ending.state == SUCCEEDED else 1
    end_run(run, recipe, ending.state, code, ending.message)
    return True


def end_run(run: str, recipe: str, state: str, code: int, message: str, *, sure: bool = True) -> RunEnd:
    """Record how a run ended, and whether its score regressed; then call the webhook, if SIDA_WEBHOOK names one."""
    webhook = settings().webhook
    store = open_store(settings().store)
    recorded = calls(store, run)
    states: dict[str, str] = {step: call.state for step, call in recorded.items()}
    recipe, line = masked(recipe, {}), kept(message)
    end = RunEnd(run=run, recipe=recipe, state=state, code=code, message=line, sure=sure, ended=now(), steps=states)
    regression = _regression(store, recorded.get("compare"))
    if regression is not None:
        end = end.model_copy(update={"standing": words.regression(regression), "regressed": regression.regressed})
    key = layout.run_end_key(run)
    store.put(key, to_json(end))  # before the call, which may take its time, or the pod's end
    if end.regressed and webhook:
        news = {"event": "regression", "run": run, "recipe": recipe, "text": f"{recipe}, run {run}: {end.standing}"}
        numbers = regression.model_dump(mode="json") if regression is not None else {}
        end = end.model_copy(update={"webhook": tell(webhook, news | {"score": numbers})})
        store.put(key, to_json(end))
    return end


def _regression(store: ObjectStore, call: StepCall | None) -> Regression | None:
    """Return the regression found by this run, or None if compare was reused (already reported)."""
    if call is None or call.state != "ran":
        return None
    try:
        result = made_by(store, call).result
    except SidaError:
        return None  # gone or damaged: the end of the run is recorded all the same
    return result.regression if isinstance(result, RunResult) else None


# -- runs of this machine that were killed whole


def end_if_killed(store: ObjectStore, run: str) -> bool:
    """Record the end of a run of this machine that is over without a word: killed with -9, or the machine went down."""
    recorded = calls(store, run)
    drivers = {call.driver for call in recorded.values() if call.driver}
    if not drivers or any(map(_may_live, drivers)) or ending_of(store, run, recorded) is not None:
        return False
    recipe = next(iter(recorded.values())).recipe
    end_run(run, recipe, FAILED, 1, "killed, or the machine went down: run the recipe again to continue")
    return True


def settle_earlier(store: ObjectStore, folder: Path, but: str) -> list[str]:
    """Record the end of recent runs in a folder that were killed whole, except our own, ``but``; return their names."""
    names = sorted((path.parent.name for path in folder.glob("*/plan.json")), reverse=True)
    return [run for run in names[:RECENT_RUNS] if run != but and end_if_killed(store, run)]


def _may_live(driver: str) -> bool:
    process, _, machine = driver.partition(" ")
    there, here = machine.split("/"), machine_id().split("/")
    if there == here:
        return Process.parse(process).alive()
    return there[0] != here[0] or there[1] == here[1]  # False: this machine has been started again since
