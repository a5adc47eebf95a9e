"""What a workflow engine runs around a run's steps: the look for results that are there, and the record of how it ended.

sida step look_up      first: steps whose result is published get no pod
sida step record_end   last, whatever happened
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from components.interface import parameters_of
from components.local import fetched
from sida import ending
from sida.disk import check_folder
from sida.errors import UserError
from sida.manifests import Part
from sida.registry import STEPS
from sida.settings import settings
from sida.steps.execute import look_up as look_up_step
from sida.stores import open_store
from sida.tracking.reconcile import track_quietly

LOOK_UP, RECORD_END = "look_up", "record_end"
# Argo's words at a node that somebody ended, and at its tries.
STOPPED = ("stopped with strategy", "workflow shutdown with strategy")


# -- first


class Task(Part):
    """One task of the run's DAG, as the compiled pipeline has it; of many recipes, each has its own."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]  # a file's name too
    step: str
    inputs: dict[str, tuple[str, ...]]  # parameter -> names of earlier tasks
    recipe: str  # empty: the run's
    anew: bool
    one_of_many: bool


def look_up(args: argparse.Namespace) -> None:
    """Write each task's published result into the folder, by the task's name; an empty file where there is none yet.

    A task that is to be made anew, or comes after one without a result, is not looked up.
    """
    check_folder(args.outputs, "--outputs")
    known: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in _tasks(args.tasks):
            known[task.name] = _published(task, known, args, Path(folder))
    args.outputs.mkdir(parents=True, exist_ok=True)
    for name, address in known.items():
        (args.outputs / name).write_text(address, encoding="utf-8")
        print(f"{name}\t{address or '-'}")


def _published(task: Task, known: dict[str, str], args: argparse.Namespace, folder: Path) -> str:
    step, given = STEPS[task.step], dict[str, Any]()
    makers = [maker for makers in task.inputs.values() for maker in makers]
    if task.anew or not all(known[maker] for maker in makers):
        return ""
    for parameter in parameters_of(step):
        addresses = [known[maker] for maker in task.inputs.get(parameter.name, ())]
        paths = [fetched(parameter, address, folder, number).path for number, address in enumerate(addresses)]
        match parameter.kind:
            case "manifests":
                given[parameter.name] = paths
            case "manifest":
                given[parameter.name] = paths[0] if paths else ""
    given["recipe"] = task.recipe or args.recipe
    if step.measures:
        given |= {"repeat": args.repeat, "scheduled": args.scheduled}
    return look_up_step(step, run_id=args.run_id, one_of_many=task.one_of_many, **given)


def _tasks(text: str) -> list[Task]:
    try:
        tasks = TypeAdapter(list[Task]).validate_json(text)
    except ValidationError as error:
        raise UserError("--tasks is no list of tasks: compile the pipeline anew") from error
    earlier: set[str] = set()
    for task in tasks:
        if task.step not in STEPS:
            raise UserError("--tasks: it names a step that this version does not have: compile the pipeline anew")
        if task.name in earlier or not earlier.issuperset(maker for makers in task.inputs.values() for maker in makers):
            raise UserError(
                f"--tasks: {task.name} is there twice, or comes before what it needs: compile the pipeline anew"
            )
        earlier.add(task.name)
    return tasks


# -- last


def record_end(args: argparse.Namespace) -> None:
    """Record how the run ended, by the steps' own records, and tell webhook and MLflow."""
    state = {"Succeeded": ending.SUCCEEDED}.get(args.state, ending.FAILED)
    messages = _messages(args.failures)
    if any(words in message.lower() for message in messages for words in STOPPED):
        ending.cancel(open_store(settings().store), args.run_id, "seen in Argo Workflows")
    say_end(args.run_id, args.recipe, state, 0 if state == ending.SUCCEEDED else 1, next(iter(messages), ""))


def say_end(run_id: str, recipe: str, state: str, code: int, message: str) -> None:
    """Record the end of a run whose engine says ``state``, and print what was recorded."""
    end = ending.end_by_records(run_id, recipe, state, code, message)
    print(f"run {end.run}: {end.state} {end.message}".rstrip())
    for step, how in end.steps.items():
        print(f"{step}: {how}")
    if end.standing:
        print(end.standing)
    if end.webhook:
        print(f"webhook: {end.webhook}")
    print(track_quietly(run_id) or "tracked")


def _messages(text: str) -> list[str]:
    """Return the messages of the pods that failed, the first one first; Argo gives a JSON text of a JSON text."""
    try:
        nodes = json.loads(text) if text else []
        nodes = json.loads(nodes) if isinstance(nodes, str) else nodes
        ordered = sorted(nodes, key=lambda node: str(node.get("finishedAt")))
        return [f"{node['displayName']}: {node['message']}" for node in ordered if node.get("message")]
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return []


# -- the command line


def arguments_of(name: str, parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Add the flags of one of the two to a parser; return its function."""

    def add(flags: Sequence[str], **more: Any) -> None:
        for flag in flags:
            parser.add_argument(flag, default="", metavar="TEXT", **more)

    add(("--recipe", "--run-id"), required=True)
    if name == RECORD_END:
        add(("--state",), help="how the engine says that it ended")
        add(("--failures",), help="the engine's list of what failed, as JSON")
        return record_end
    add(("--tasks",), required=True, help="the run's tasks, as the compiled pipeline has them")
    add(("--repeat", "--scheduled"))
    parser.add_argument("--outputs", metavar="FOLDER", type=Path, required=True, help="where the addresses are written")
    return look_up


HELP = {LOOK_UP: "Find the results that are published.", RECORD_END: "Record how a run ended."}
