"""On how many processes and nodes a job is worked on: any number that divides its batch, another one at each start."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import Any

from pydantic import ValidationError

from sida import progress
from sida.errors import NotFound
from sida.launch.pod import Positive
from sida.layout import PROCESSES
from sida.manifests import Part
from sida.settings import environment
from sida.worker.job import Job


class Layout(Part):
    """The processes of one start of a job."""

    processes: Positive
    nodes: Positive


def note_layout(job: Job[Any]) -> None:
    """Record on how many processes the job is worked on now, and say so where it continues what others have begun."""
    world = job.processes.world
    now, before = Layout(processes=world, nodes=max(1, world // _on_this_node(world))), _recorded(job)
    if before == now:
        return
    if before is not None and _has_begun(job):
        progress.note(job.step, _in_words(now, before))
    job.publish(PROCESSES, now.model_dump_json().encode())


def _on_this_node(world: int) -> int:
    return int(environment().get("LOCAL_WORLD_SIZE", world))


def _recorded(job: Job[Any]) -> Layout | None:
    with suppress(NotFound, ValidationError):
        return Layout.model_validate_json(job.store.read(f"{job.folder}/{PROCESSES}"))
    return None


def _has_begun(job: Job[Any]) -> bool:
    """Return whether earlier starts have left something to continue from."""
    folders = ("checkpoints", "parts")
    return any(chain.from_iterable(job.store.list(f"{job.folder}/{folder}/") for folder in folders))


def _in_words(now: Layout, before: Layout) -> str:
    """``continuing on 2 processes (was 1)``; ``continuing on 1 node with 2 processes (was 2 nodes with 4)``."""
    processes = f"{now.processes} process{'es' if now.processes > 1 else ''}"
    if now.nodes == before.nodes:
        return f"continuing on {processes} (was {before.processes})"
    return f"continuing on {_nodes(now)} with {processes} (was {_nodes(before)} with {before.processes})"


def _nodes(layout: Layout) -> str:
    return f"{layout.nodes} node{'s' if layout.nodes > 1 else ''}"
