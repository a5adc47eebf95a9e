"""The step compare: the table, the verdict, sample grids, nearest training images, class coverage."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sida.manifests import DatasetResult, GeneratorResult, Manifest, Panel, RunResult, digest_of
from sida.manifests import read_manifest as read
from sida.recipe import Recipe
from sida.scoring import words
from sida.scoring.regression import judge
from sida.scoring.series import previous
from sida.settings import settings
from sida.steps import Context, Published, carried, step
from sida.stores import open_store


@step("compare", version=3, sources=("sida/report", "sida/scoring", "sida/numerics"))
def compare(
    context_of: Any,
    *,
    recipe: Recipe,
    teacher_scores: str,
    scores: str,
    attempt: str = "",
) -> Published:
    """Put the scores side by side and draw samples from the same seeds and labels."""
    of_teacher, of_generator = read(teacher_scores, "scores"), read(scores, "scores")
    inputs = {
        "teacher": carried(of_teacher, "model"),
        "generator": carried(of_generator, "model"),
        "dataset": carried(of_generator, "dataset"),
        "reference": carried(of_generator, "reference"),
        "teacher_scores": of_teacher,
        "scores": of_generator,
    }
    made: GeneratorResult = inputs["generator"].result  # type: ignore[assignment]
    rows = [*inputs["teacher_scores"].rows, *inputs["scores"].rows]
    rows.sort(key=lambda score: ("teacher", "generator", "real").index(score.model))

    store = open_store(settings().store)
    last = previous(store, recipe, inputs["scores"])
    if last is not None:  # part of the key: the same score after another one may be a regression
        inputs["previous"] = last

    def produce(context: Context) -> RunResult:
        for name in ("teacher_scores", "scores"):
            rate = inputs[name].about.notes.get("images_per_second")
            if rate is not None:
                context.notes[f"{name}_images_per_second"] = rate
        from sida.report.samples import draw  # torch

        with tempfile.TemporaryDirectory() as folder:
            drawn = draw(Path(folder), context.store, recipe, inputs)
            grid, evidence = (context.put(p, p.name) for p in (drawn.sheet, drawn.evidence))
            nearest = context.put(drawn.nearest, drawn.nearest.name) if drawn.nearest is not None else None
            panels = tuple(
                Panel(model=name, title=title, image=context.put(path, path.name))  # type: ignore[arg-type]
                for name, (title, path) in drawn.panels.items()
            )
        data: DatasetResult = inputs["dataset"].result  # type: ignore[assignment]
        kind = "class-conditional" if data.classes else "unconditional"
        return RunResult(
            recipe=recipe.name,
            recipe_sha256=digest_of(recipe.model_dump(mode="json")),
            title=f"{recipe.name} {data.resolution}x{data.resolution}, {kind}",
            rows=tuple(rows),
            verdict=words.verdict(recipe, rows),
            generator=made.weights,
            grid=grid,
            panels=panels,
            nearest=nearest,
            evidence=evidence,
            licence=made.licence,
            regression=judge(inputs["scores"].rows, last) if last is not None else None,
        )

    parameters = {"gate": recipe.gate.model_dump(mode="json"), "recipe": recipe.name}
    if recipe.expected is not None:
        parameters["expected"] = recipe.expected.model_dump(mode="json")
    return context_of(parameters=parameters, inputs=inputs, produce=produce, attempt=attempt)


def table(manifest: Manifest, *, page: bool = False) -> list[tuple[str, str, str, str]]:
    """Return (model, NFE, score, images/s), the heading first. A page shows title and protocol beside the table."""
    result: RunResult = manifest.result  # type: ignore[assignment]
    notes, first = manifest.about.notes, result.rows[0]
    rates = {
        "teacher": notes.get("teacher_scores_images_per_second"),
        "generator": notes.get("scores_images_per_second"),
    }
    protocol = f"{first.metric} (mean +- sd over {len(first.values)} held-out seed ranges, n = {first.n:,})"
    title, score, sign = ("model", first.metric, "\u00a0\u00b1\u00a0") if page else (result.title, protocol, " +- ")
    lines = [(title, "NFE", score, "images/s")]
    for row in result.rows:
        rate = rates.get(row.model)
        lines.append(
            (
                row.label,
                "-" if row.nfe is None else str(row.nfe),
                f"{row.mean:.3f}{sign}{row.sd:.3f}",
                "-" if rate is None else f"{float(rate):,.0f}",
            )
        )
    return lines


def standing_of(manifest: Manifest) -> dict[str, float]:
    """Return numbers for the KFP page: the generator's score, its ratio to the teacher's, the change since the last."""
    result: RunResult = manifest.result  # type: ignore[assignment]
    score = {row.model: row for row in result.rows}
    numbers = {f"generator_{score['generator'].metric}": score["generator"].mean}
    numbers["generator_over_teacher"] = score["generator"].mean / score["teacher"].mean
    if (change := result.regression) is not None:
        numbers |= {"last": change.before, "worse_by": change.worse_by, "regressed": float(change.regressed)}
    return numbers


def markdown(manifest: Manifest, mlflow: str = "") -> str:
    """Return the table and the verdict for the KFP page, with a link to MLflow if there is one."""
    result: RunResult = manifest.result  # type: ignore[assignment]
    heading, *rows = table(manifest)
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if result.regression is not None:
        lines += ["", words.regression(result.regression)]
    lines += ["", result.verdict, "", f"Licence of the weights: {result.licence}"]
    if mlflow:
        lines += ["", f"[Curves, scores and models in MLflow](<{mlflow}>)"]
    return "\n".join([*lines, ""])
