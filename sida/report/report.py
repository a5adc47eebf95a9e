"""The step report: everything about a run on one page, from the manifests of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    Part,
    ReferenceResult,
    ReportResult,
    RunResult,
    ScoresResult,
    TeacherResult,
    input_of,
)
from sida.recipe import Recipe
from sida.report.page import curve_of, page_of
from sida.steps import From, Made, StepRun, carried, step

SHOWN: dict[str, type[Part]] = {
    "teacher": TeacherResult,
    "generator": GeneratorResult,
    "dataset": DatasetResult,
    "reference": ReferenceResult,
    "teacher_scores": ScoresResult,
    "scores": ScoresResult,
}


def _attempts(inputs: Mapping[str, Manifest[Any]]) -> dict[str, str]:
    return {name: f"{manifest.about.key}/{manifest.about.attempt}" for name, manifest in inputs.items()}


def _repeats(made: Made[ReportResult]) -> dict[str, Any]:
    run = input_of(made.inputs, "run", RunResult)
    return {"run": run.digest, "about.parameters.attempts": _attempts(made.inputs)}


@step(
    version=2,
    sources=("sida/report",),
    repeats=_repeats,
    carries={name: ("run", name) for name in SHOWN},
)
def report(this: StepRun, recipe: Recipe, run: Annotated[Manifest[RunResult], From("compare")]) -> ReportResult:
    """Write the page about a run: verdict, curves, samples, timing, provenance, how to reproduce it.

    Args:
        run: The run's manifest: table, verdict, pictures; it names everything that the page shows.

    Returns:
        The page's manifest.
    """
    inputs: dict[str, Manifest[Any]] = {"run": run} | {name: carried(run, name, kind) for name, kind in SHOWN.items()}
    # The attempts count: the page shows how long each of them took.
    this.claim({"recipe": recipe.model_dump(mode="json"), "attempts": _attempts(inputs)}, **inputs)

    page = page_of(recipe, inputs, this.store, curve_of(this.store, inputs["generator"].result))
    return ReportResult(run=run.digest, page=this.put(page.encode(), "report.html"))
