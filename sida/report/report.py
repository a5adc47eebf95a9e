"""The step report: everything about a run on one page, from the manifests of its steps."""

from __future__ import annotations

import json
from typing import Any

from sida.manifests import GeneratorResult, Manifest, ReportResult
from sida.manifests import read_manifest as read
from sida.recipe import Recipe
from sida.steps import Context, Published, carried, step

SHOWN = ("teacher", "generator", "dataset", "reference", "teacher_scores", "scores")


@step("report", version=2, sources=("sida/report",))
def report(
    context_of: Any,
    *,
    recipe: Recipe,
    run: str,
    attempt: str = "",
) -> Published:
    """Write the page about a run."""
    compared = read(run, "run")
    inputs = {"run": compared} | {name: carried(compared, name) for name in SHOWN}

    def produce(context: Context) -> ReportResult:
        from sida.report.page import page_of  # matplotlib, jinja2

        page = page_of(recipe, inputs, context.store, curve_of(context.store, inputs["generator"]))
        return ReportResult(run=inputs["run"].digest, page=context.put(page.encode(), "report.html"))

    # The attempts count: the page shows how long each of them took.
    attempts = {name: f"{manifest.about.key}/{manifest.about.attempt}" for name, manifest in inputs.items()}
    parameters = {"recipe": recipe.model_dump(mode="json"), "attempts": attempts}
    return context_of(parameters=parameters, inputs=inputs, produce=produce, attempt=attempt)


def curve_of(store: Any, generator: Manifest) -> list[dict[str, float]]:
    """The points of a distillation."""
    result = generator.result
    assert isinstance(result, GeneratorResult)
    if result.curve is None:  # it was made elsewhere
        return []
    return json.loads(store.read(result.curve.key))


def page_bytes(store: Any, manifest: Manifest) -> bytes:
    """The page of a report's manifest."""
    assert isinstance(manifest.result, ReportResult)
    return bytes(store.read(manifest.result.page.key))
