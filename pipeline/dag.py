"""The DAG, defined once: which step takes what from which. Kubeflow and kfp's local runner both get it from ``build``.

kfp is imported by ``build`` only, so that the command line can check a step's name without it. It reads the annotations of the
pipeline's function: no ``from __future__ import annotations`` here.
"""

import difflib
import importlib
import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.published import TASKS as PUBLISHED_TASKS
from pipeline.published import build_published
from sida.errors import UserError
from sida.steps import SCHEDULED

if TYPE_CHECKING:
    from sida.recipe import Recipe

TEACHER = "TEACHER"  # fetch_teacher's output, or teach's where the recipe trains its own

START = "fetch_generator.generator"  # what theta starts from in SiD2A; in all others it is the teacher

# A manifest says what it was made from, so a step takes only what nothing else brings. Kubeflow's metadata store refuses one
# artifact on two inputs of a task.
_TASKS: dict[str, dict[str, str]] = {
    "fetch_teacher": {},
    "fetch_generator": {},
    "prepare_data": {},
    "teach": {"dataset": "prepare_data.dataset"},
    "reference_statistics": {"dataset": "prepare_data.dataset"},
    "score_teacher": {
        "teacher": TEACHER,
        "reference": "reference_statistics.reference",
    },
    "distill": {
        "teacher_scores": "score_teacher.scores",
        "start": START,
    },
    "score": {
        "generator": "distill.generator",
        "reference": "reference_statistics.reference",
    },
    "compare": {
        "teacher_scores": "score_teacher.scores",
        "scores": "score.scores",
    },
    "report": {
        "run": "compare.run",
    },
}
STEPS = (*_TASKS, *(step for step in PUBLISHED_TASKS if step not in _TASKS))
_REPEATED = ("score_teacher", "score")  # steps that take the pipeline's parameter ``repeat``


@dataclass(frozen=True)
class Plan:
    """What is to be run: the DAG up to ``goal``, for one resolved recipe."""

    recipe: str  # its name
    address: str  # where its resolved form lies in the store, with its digest
    goal: str = "report"
    train_teacher: bool = False
    fetch_generator: bool = False  # SiD2A: theta starts from a finished generator
    force: tuple[str, ...] = ()  # these steps, and all after them, make a new attempt
    pipeline: str = ""  # its name on Kubeflow; empty: after the recipe
    group: str = ""  # name of the box around the steps in Kubeflow's graph
    description: str = ""
    repeat: str = ""  # of a run on this machine; another text measures the scores anew
    published: tuple[str, ...] = ()  # recipes whose released generators are scored; then this is pipeline.published

    def __post_init__(self) -> None:
        for step in self.force:
            if step not in (known := self.tasks()):
                near = difflib.get_close_matches(step, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise UserError(f"--force {step}: no such step in this run: {hint}steps: {', '.join(known)}")

    @classmethod
    def of(cls, recipe: "Recipe", address: str, goal: str = "report", force: Iterable[str] = ()) -> "Plan":
        """The plan for a recipe; without an address to fetch its teacher from, it trains one."""
        trains = recipe.teacher.address is None or goal == "teach"
        return cls(recipe.name, address, goal, trains, recipe.generator is not None, tuple(force))

    def tasks(self) -> dict[str, dict[str, str]]:
        """Step -> {input: "step.output"}, every step after those it needs."""
        if self.published:
            return PUBLISHED_TASKS
        teacher = "teach.teacher" if self.train_teacher else "fetch_teacher.teacher"
        found: dict[str, dict[str, str]] = {}

        def add(step: str) -> None:
            sources = {name: teacher if source == TEACHER else source for name, source in _TASKS[step].items()}
            if not self.fetch_generator:
                sources = {name: source for name, source in sources.items() if source != START}
            for source in sources.values():
                if source.split(".")[0] not in found:
                    add(source.split(".")[0])
            found[step] = sources

        add(self.goal)
        return found

    def forced(self) -> set[str]:
        """The steps named in ``force`` and everything after them."""
        forced: set[str] = set(self.force)
        for step, sources in self.tasks().items():
            if any(source.split(".")[0] in forced for source in sources.values()):
                forced.add(step)
        return forced

    def to_json(self) -> str:
        """For another process; see ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """What ``to_json`` wrote."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("force", "published")}
        return cls(**values | lists)


class Cluster(Protocol):
    """What a pipeline needs beyond its DAG where it runs on a cluster; see ``pipeline.compile``."""

    def configure(self, step: str, task: Any) -> None:
        """Set the image, resources and environment of a step's task."""

    def ending(self, recipe: Any, name: str) -> Any:
        """The context manager around all steps: an exit handler that records how the run ended."""


def repeat_by_default(cluster: Cluster | None) -> str:
    """What ``repeat`` is where nobody says: a schedule made in Kubeflow's own pages measures each time."""
    return SCHEDULED if cluster else ""


def placeholders(cluster: Cluster | None) -> tuple[dict[str, str], dict[str, str]]:
    """(what every step is told, what scoring steps are told too): the run's id and time, which KFP fills in on a cluster alone.

    As the whole constant of a task's input they are resolved; inside of a parameter's value they are not (seen on KFP 2.17).
    """
    from kfp import dsl

    if cluster is None:
        return {}, {}
    return {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}, {"scheduled": dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER}


def build(plan: Plan, components: str = "components", cluster: Cluster | None = None) -> Any:
    """The kfp pipeline of a plan; ``components`` is the package with one module per step.

    Its parameters: ``recipe``, the address of the resolved recipe, and ``repeat`` (see ``sida.steps.repetition``).
    """
    if plan.published:
        return build_published(plan, components, cluster)
    from kfp import dsl

    tasks, forced = plan.tasks(), plan.forced()
    steps = {step: getattr(importlib.import_module(f"{components}.{step}"), step) for step in tasks}
    known, timed = placeholders(cluster)

    @dsl.pipeline(
        name=plan.pipeline or f"sida-{plan.recipe}", description=plan.description or f"Distil and score: {plan.recipe}"
    )
    def benchmark(recipe: str = plan.address, repeat: str = repeat_by_default(cluster)):  # type: ignore[no-untyped-def]
        """Distil a diffusion model to one step and score it.

        Args:
            recipe: Name of a recipe in the image, or address of a resolved one in the store with its digest.
            repeat: "scheduled": the scores are measured anew, under the time of the run, so that each firing of a schedule
                measures. "reuse": scores that are there are taken. Any other text: once for each text.
        """
        made: dict[str, Any] = {}
        with cluster.ending(recipe, plan.group) if cluster else nullcontext():
            for step, sources in tasks.items():
                inputs = {}
                for name, source in sources.items():
                    maker, output = source.split(".")
                    inputs[name] = made[maker].outputs[output]
                if step in _REPEATED:
                    inputs |= {"repeat": repeat, **timed}
                attempt = "new" if step in forced else ""
                made[step] = steps[step](recipe=recipe, attempt=attempt, **known, **inputs)
                made[step].set_caching_options(False)  # our keys decide: kfp's cannot see deleted objects
                if cluster:
                    cluster.configure(step, made[step])

    return benchmark
