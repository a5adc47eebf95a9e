"""The step compare: the table, the verdict, sample grids, nearest training images, class coverage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    Panel,
    ReferenceResult,
    RunResult,
    ScoresResult,
    TeacherResult,
    digest_of,
    input_of,
)
from sida.recipe import Recipe
from sida.recipe.shipped import each_address, portable
from sida.scoring import words
from sida.scoring.gates import judge
from sida.scoring.label_rule import LABELS
from sida.scoring.noise import NOISE
from sida.scoring.series import previous
from sida.steps import From, Made, StepRun, carried, step


def _asks(recipe: Recipe) -> dict[str, Any]:
    expected = {} if recipe.expected is None else {"expected": recipe.expected.model_dump(mode="json")}
    return {"gate": recipe.gate.model_dump(mode="json"), "recipe": recipe.name, **expected}


def _repeated(recipe: Recipe, inputs: Mapping[str, Manifest[Any]]) -> dict[str, Any]:
    """Return the fields of the result that follow from recipe and inputs: the table, the verdict, what they are of."""
    teacher_scores, scores = (input_of(inputs, name, ScoresResult) for name in ("teacher_scores", "scores"))
    generator = input_of(inputs, "generator", GeneratorResult).result
    dataset = input_of(inputs, "dataset", DatasetResult).result
    rows = [*teacher_scores.rows, *scores.rows]
    rows.sort(key=lambda score: ("teacher", "generator", "real").index(score.model))
    kind = "class-conditional" if dataset.classes else "unconditional"
    last = input_of(inputs, "previous", ScoresResult) if "previous" in inputs else None
    return {
        "recipe": recipe.name,
        "title": f"{recipe.name} {dataset.resolution}x{dataset.resolution}, {kind}",
        "rows": tuple(rows),
        "second": (*teacher_scores.result.second_rows, *scores.result.second_rows),
        "verdict": words.verdict(recipe, rows),
        "generator": generator.weights,
        "licence": generator.licence,
        "regression": judge(scores.rows, last) if last is not None else None,
    }


def _told(inputs: Mapping[str, Manifest[Any]]) -> dict[str, str | float]:
    """Return notes of the inputs that the table is shown with: how fast, by which rule of labels, and that it ended in noise."""
    notes = {name: inputs[name].about.notes for name in ("teacher_scores", "scores", "generator")}
    told = {f"{name}_images_per_second": notes[name].get("images_per_second") for name in ("teacher_scores", "scores")}
    told |= {LABELS: notes["scores"].get(LABELS), NOISE: notes["generator"].get(NOISE)}
    return {name: note for name, note in told.items() if note is not None}


def _repeats(made: Made[RunResult]) -> dict[str, Any]:
    fields = _repeated(made.recipe, made.inputs)
    recipe = made.recipe.model_dump(mode="json")
    if each_address(recipe, portable) == recipe:  # else its addresses, and so its digest, are those of one machine
        fields["recipe_sha256"] = digest_of(recipe)
    return fields | {f"about.notes.{name}": note for name, note in _told(made.inputs).items()}


CARRIED = {
    "teacher": ("teacher_scores", "model"),
    "generator": ("scores", "model"),
    "dataset": ("scores", "dataset"),
    "reference": ("scores", "reference"),
}


@step(
    version=3,
    sources=("sida/report", "sida/scoring", "sida/numerics"),
    asks=_asks,
    repeats=_repeats,
    carries=CARRIED,
)
def compare(
    run: StepRun,
    recipe: Recipe,
    teacher_scores: Annotated[Manifest[ScoresResult], From("score_teacher")],
    scores: Annotated[Manifest[ScoresResult], From("score")],
) -> RunResult:
    """Compare the generator with its teacher and with real images: table, verdict, sample grids, nearest training images.

    Args:
        teacher_scores: The teacher's score and the floor; it names the teacher.
        scores: The generator's score; it names the generator, the data and the reference.

    Returns:
        The run's manifest, which names everything.
    """
    last = previous(run.store, recipe, scores)
    run.claim(
        teacher=carried(teacher_scores, "model", TeacherResult),
        generator=carried(scores, "model", GeneratorResult),
        dataset=carried(scores, "dataset", DatasetResult),
        reference=carried(scores, "reference", ReferenceResult),
        teacher_scores=teacher_scores,
        scores=scores,
        **({} if last is None else {"previous": last}),  # the same score after another one may be a regression
    )
    run.notes |= _told(run.inputs)

    from sida.report.samples import draw  # torch

    drawn = draw(run.store, recipe, run.inputs)
    return RunResult(
        recipe_sha256=digest_of(recipe.model_dump(mode="json")),
        grid=run.put(drawn.sheet, "samples.png"),
        panels=tuple(
            Panel(model=name, title=title, image=run.put(picture, f"samples-{name}.png"))
            for name, (title, picture) in drawn.panels.items()
        ),
        nearest=None if drawn.nearest is None else run.put(drawn.nearest, "nearest.png"),
        evidence=run.put(json.dumps(drawn.evidence).encode(), "evidence.json"),
        **_repeated(recipe, run.inputs),
    )


def table(manifest: Manifest[RunResult], *, page: bool = False) -> list[tuple[str, str, str, str]]:
    """Return (model, NFE, score, images/s), the heading first. A page shows title and protocol beside the table."""
    result = manifest.result
    notes, first = manifest.about.notes, result.rows[0]
    rates = {
        "teacher": notes.get("teacher_scores_images_per_second"),
        "generator": notes.get("scores_images_per_second"),
    }
    protocol = f"{first.metric} (mean +- sd over {words.held_out_ranges(result.rows)}, n = {first.n:,})"
    title, heading = result.title, protocol
    if page:
        title, heading = "model", f"{first.metric}, mean \u00b1 sd, n = {first.n:,}"
    lines = [(title, "NFE", heading, "images/s")]
    for row in (*result.rows, *result.second):
        second = row.metric != first.metric
        rate, nfe = None if second else rates.get(row.model), "-" if row.nfe is None else str(row.nfe)
        ours = words.measured_text(row)
        ours = ours.replace(" +- ", "\u00a0\u00b1\u00a0") if page else ours
        ours = f"{row.metric} {ours}" if second else ours
        ours += f" (n = {row.n:,})" if row.n != first.n else ""
        lines.append((row.label, nfe, ours, "-" if rate is None else f"{float(rate):,.0f}"))
    return lines


def remarks(manifest: Manifest[RunResult]) -> list[str]:
    """Return what belongs under the table: the rule of the labels, and that the training turned to noise."""
    notes = manifest.about.notes
    lines = [f"labels: {notes[LABELS]}"] if LABELS in notes else []
    return lines + ([f"the training {notes[NOISE]}"] if NOISE in notes else [])


def standing_of(manifest: Manifest[RunResult]) -> dict[str, float]:
    """Return numbers for the KFP page: the generator's score, its ratio to the teacher's, the change since the last."""
    result = manifest.result
    score = {row.model: row for row in result.rows}
    numbers = {
        f"generator_{words.series_name(row.metric, row.n)}": row.mean
        for row in (*result.rows, *result.second)
        if row.model == "generator"
    }
    if score["teacher"].mean:
        numbers["generator_over_teacher"] = words.over_teacher(score["generator"], score["teacher"])
    if (change := result.regression) is not None:
        numbers |= {"last": change.before, "worse_by": change.worse_by, "regressed": float(change.regressed)}
    return numbers


def markdown(manifest: Manifest[RunResult], mlflow: str = "") -> str:
    """Return the table and the verdict for the KFP page, with a link to MLflow if there is one."""
    result = manifest.result
    lines = [words.markdown_table(table(manifest)), *(f"\n{line}" for line in remarks(manifest))]
    if result.regression is not None:
        lines += ["", words.regression(result.regression)]
    lines += ["", result.verdict, "", f"Licence of the weights: {result.licence}"]
    if mlflow:
        lines += ["", f"[Curves, scores and models in MLflow](<{mlflow}>)"]
    return "\n".join([*lines, ""])
