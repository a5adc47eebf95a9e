"""The steps to run, and which of them takes what from which."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sida.errors import UserError
from sida.recipe import Recipe
from sida.registry import STEPS

SCORE_PUBLISHED = "score_published"  # the pipeline that scores released generators
RELEASED = ("fetch_released", "score_data", "reference_statistics", "score", "published_table")  # its steps


@dataclass(frozen=True)
class Plan:
    """The DAG up to ``goal``, for one resolved recipe."""

    recipe: str  # its name
    address: str  # where its resolved form lies in the store, with its digest
    goal: str = "report"
    train_teacher: bool = False
    fetch_generator: bool = False  # SiD2A: theta starts from a finished generator
    force: tuple[str, ...] = ()  # these steps, and all after them, make a new attempt
    pipeline: str = ""  # its name on an engine; empty: after the recipe
    group: str = ""  # name of the box around the steps in Kubeflow's graph
    description: str = ""
    repeat: str = ""  # of a run on this machine; another text measures the scores anew
    published: tuple[str, ...] = ()  # recipes whose released generators are scored; their DAG, then

    def __post_init__(self) -> None:
        for step in self.force:
            if step not in (tasks := self.tasks()):
                near = difflib.get_close_matches(step, tasks, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise UserError(f"--force {step}: no such step in this run: {hint}steps: {', '.join(tasks)}")

    @classmethod
    def of(cls, recipe: Recipe, address: str, goal: str = "report", force: Iterable[str] = ()) -> Plan:
        """Return the plan for a recipe; without an address to fetch its teacher from, it trains one."""
        trains = recipe.teacher.address is None or goal == "teach"
        return cls(recipe.name, address, goal, trains, recipe.generator is not None, tuple(force))

    def tasks(self) -> dict[str, dict[str, str]]:
        """Return step -> {input: "step.output"}, every step after those it needs.

        A manifest says what it was made from, so a step takes only what nothing else brings: Kubeflow's metadata store refuses
        one artifact on two inputs of a task.
        """
        left_out = set(STEPS) - set(RELEASED) if self.published else {"fetch_released", "score_data"}
        left_out |= {"fetch_teacher" if self.train_teacher else "teach"}
        if not self.fetch_generator:
            left_out.add("fetch_generator")
        tasks: dict[str, dict[str, str]] = {}

        def add(step: str) -> None:
            sources = {}
            for taken in STEPS[step].inputs.values():
                maker = next((maker for maker in taken.makers if maker not in left_out), None)
                if maker is not None:  # else it is optional
                    sources[taken.name] = f"{maker}.{STEPS[maker].output_name}"
                    if maker not in tasks:
                        add(maker)
            tasks[step] = sources

        add("published_table" if self.published else self.goal)
        return tasks

    def forced(self) -> set[str]:
        """Return the steps named in ``force`` and everything after them."""
        forced: set[str] = set(self.force)
        for step, sources in self.tasks().items():
            if any(source.split(".")[0] in forced for source in sources.values()):
                forced.add(step)
        return forced

    def to_json(self) -> str:
        """Return JSON for another process; see ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read the JSON of ``to_json``."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("force", "published")}
        return cls(**values | lists)
