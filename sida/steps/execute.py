"""One step for a component: recorded under its run, its log kept, its manifest written where the pipeline wants it."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sida import progress, records
from sida.disk import full_disk
from sida.errors import SidaError, TimedOut
from sida.failures import Failure, first_failure
from sida.manifests import Part
from sida.printing import one_line
from sida.process.signals import on_stop
from sida.settings import settings
from sida.steps.attempts import StepOutcome
from sida.steps.log import kept as kept_log
from sida.steps.recipes import recipe_at
from sida.steps.step import Step

R = TypeVar("R", bound=Part)

# What the pipeline's parameter ``repeat`` may say beside any text of one's own.
REUSE = "reuse"  # scores that are there are taken
SCHEDULED = "scheduled"  # measured anew, under the time for which the run was planned


class Artifact(Protocol):
    """Output of a component as kfp hands it over: a file, and facts about it for Kubeflow's pages."""

    path: str
    metadata: dict[str, Any]


def execute(step: Step[R], output: Artifact, *, run_id: str = "", **arguments: Any) -> StepOutcome[R]:
    """Run a step for a component: write the manifest to ``output.path``, its address and digest to the metadata.

    Metrics get no such metadata: Kubeflow's pages show all metadata as numbers, and the manifest says the same.

    The call is recorded under the run it belongs to (``run_id``, or SIDA_RUN), before and after, so that ``rerun`` can repeat it;
    what it wrote to stdout and stderr is kept beside that (``sida.steps.log``). A SidaError becomes one line for the user and the
    exit status that it names.
    """
    run_id = run_id or settings().run
    with ended_in_a_line(step.name), kept_log(run_id, step.name), _ended_by_sigterm(step.name):
        outcome = _recorded(step, run_id, arguments)
    return _delivered(outcome, output)


@contextmanager
def ended_in_a_line(step: str) -> Iterator[None]:
    """End on a SidaError or a full disk with one line for the user and the exit status that it names."""
    try:
        yield
    except Exception as error:
        message, exit_code = _in_a_line(error)
        progress.error(step, message, exit_code)
        raise SystemExit(exit_code) from error


def execute_one_of_many(
    step: Step[R], output: Artifact, *, run_id: str = "", **arguments: Any
) -> StepOutcome[R] | None:
    """Run as ``execute`` does, but pass a failure on in place of the result: the run goes on without it.

    The call is recorded under the step's and the recipe's names, so that those of other recipes stay beside it.
    """
    run_id = run_id or settings().run
    failure = first_failure(arguments.values())
    if failure is None:
        item = arguments["recipe"]
        try:
            item = recipe_at(arguments["recipe"]).name
            with kept_log(run_id, f"{step.name}.{item}"), _ended_by_sigterm(step.name):
                return _delivered(_recorded(step, run_id, arguments, item), output)
        except Exception as error:  # whatever it is, it is this item's: the end of the run says it
            if not isinstance(error, SidaError):
                traceback.print_exc()
            message, exit_code = _in_a_line(error, strict=False)
            recipe, message = arguments["recipe"], records.kept(message)
            failure = Failure(item=item, recipe=recipe, step=step.name, message=message, exit_code=exit_code)
        progress.note(step.name, f"{item} failed, the others go on: {failure.message}")
    failure.write(output.path)
    return None


@contextmanager
def _ended_by_sigterm(step: str) -> Iterator[None]:
    """End on SIGTERM as on an error: the lease is released, so that the next attempt need not wait until it expires.

    The first process of a container is deaf to signals that it does not handle. What launches workers handles this one itself.
    """
    heard: list[int] = []

    def end(number: int) -> None:
        if not heard:  # a second one does not disturb the end
            heard.append(number)
            raise SystemExit(128 + number)

    with on_stop(end, (signal.SIGTERM,)):
        try:
            yield
        finally:
            if heard and settings().events is None:  # else whoever draws events has asked for it
                progress.note(step, "ended by SIGTERM: what was published is kept, the same step goes on from there")


def look_up(step: Step[R], *, run_id: str = "", one_of_many: bool = False, **arguments: Any) -> str:
    """Return the address of the result if it is published already, with the call recorded as reused; else an empty text.

    Whatever goes wrong is left for the step itself to meet again and to report.
    """
    progress.work_on(step.name)
    try:
        chosen = _chosen(step, arguments)
        outcome = chosen.published(**arguments)
        if outcome is None:
            return ""
        item = recipe_at(arguments["recipe"]).name if one_of_many else ""
        call = _begun(step.name, chosen, run_id or settings().run, arguments, item)
        records.finished(call, outcome.address, outcome.manifest.digest, outcome.reused)
    except Exception as error:
        progress.note(step.name, f"not looked up: {one_line(f'{type(error).__name__}: {error}')}")
        return ""
    return outcome.address


def _chosen(step: Step[R], arguments: dict[str, Any]) -> Step[Any]:
    """Return the step that does it for the recipe; ``repeat`` and ``scheduled`` become one of its arguments."""
    if "scheduled" in arguments:
        arguments["repeat"] = repetition(arguments["repeat"], arguments.pop("scheduled"))
    return step if step.choose is None else step.choose(recipe_at(arguments["recipe"]))


def _begun(name: str, step: Step[R], run: str, arguments: dict[str, Any], item: str) -> records.StepCall | None:
    """Record that the step begins; ``item`` is the recipe's name, where it is one of many."""
    more = {"one_of_many": "true"} if item else {}
    return records.begin(run, name, step.version, arguments | more, item)


def _recorded(step: Step[R], run: str, arguments: dict[str, Any], item: str = "") -> StepOutcome[R]:
    """Run the step, recorded before and after."""
    progress.work_on(step.name)
    name, step = step.name, _chosen(step, arguments)
    call = _begun(name, step, run, arguments, item)
    try:
        outcome = step(**arguments)
    except Exception as error:
        message, _ = _in_a_line(error, strict=False)
        try:
            records.failed(call, message, timed_out=isinstance(error, TimedOut))
        except (SidaError, OSError) as lost:  # the store may be what failed: its own error is reported
            progress.note(step.name, f"its failure is not recorded: {lost}")
        raise
    records.finished(call, outcome.address, outcome.manifest.digest, outcome.reused)
    return outcome


def repetition(repeat: str, scheduled: str) -> str:
    """Return the text that tells one measurement from another; ``scheduled`` is the time for which the run was planned.

    Raises SidaError for a time that Kubeflow left as a placeholder: all firings of a schedule would be one measurement.
    """
    if repeat == REUSE:
        return ""
    if repeat != SCHEDULED or not scheduled:
        return repeat
    if "{{" in scheduled:
        raise SidaError(
            f"Kubeflow did not fill in the time of this run ({scheduled}), so that a schedule would measure only once: "
            f"Kubeflow Pipelines 2.17 or newer is needed, or submit with --repeat TEXT"
        )
    return scheduled


def _in_a_line(error: Exception, *, strict: bool = True) -> tuple[str, int]:
    """Return (message, exit status). ``strict``: re-raise anything that is neither ours nor a full disk."""
    known = error if isinstance(error, SidaError) else full_disk(error)
    if known is not None:
        return str(known), known.exit_code
    if strict:
        raise error
    return one_line(f"{type(error).__name__}: {error}"), 1


def _delivered(outcome: StepOutcome[R], output: Artifact) -> StepOutcome[R]:
    path = Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(outcome.manifest.to_json())
    if getattr(output, "schema_title", "") != "system.Metrics":
        output.metadata.update(address=outcome.address, digest=outcome.manifest.digest)
    return outcome
