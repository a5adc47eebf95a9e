"""The step compare: the table, the verdict in words, sample grids, nearest training images, class coverage."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    Panel,
    ReferenceResult,
    RunResult,
    Score,
    ScoresResult,
    TeacherResult,
    digest_of,
)
from sida.recipe import Recipe
from sida.report.regression import in_words, judge
from sida.scoring.gates import against_teacher, target_gate
from sida.scoring.series import previous
from sida.steps import From, StepRun, carried, step


@step(version=3, sources=("sida/report", "sida/scoring", "sida/numerics"))
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
    generator = carried(scores, "model", GeneratorResult)
    dataset = carried(scores, "dataset", DatasetResult)
    last = previous(run.store, recipe, scores)
    parameters = {"gate": recipe.gate.model_dump(mode="json"), "recipe": recipe.name}
    if recipe.expected is not None:
        parameters["expected"] = recipe.expected.model_dump(mode="json")
    run.claim(
        parameters,
        teacher=carried(teacher_scores, "model", TeacherResult),
        generator=generator,
        dataset=dataset,
        reference=carried(scores, "reference", ReferenceResult),
        teacher_scores=teacher_scores,
        scores=scores,
        **({} if last is None else {"previous": last}),  # the same score after another one may be a regression
    )
    for name in ("teacher_scores", "scores"):
        rate = run.inputs[name].about.notes.get("images_per_second")
        if rate is not None:
            run.notes[f"{name}_images_per_second"] = rate
    rows = [*teacher_scores.rows, *scores.rows]
    rows.sort(key=lambda score: ("teacher", "generator", "real").index(score.model))

    from sida.report.samples import draw  # torch

    with tempfile.TemporaryDirectory() as folder:
        drawn = draw(Path(folder), run.store, recipe, run.inputs)
        grid, evidence = (run.put(p, p.name) for p in (drawn.sheet, drawn.evidence))
        nearest = run.put(drawn.nearest, drawn.nearest.name) if drawn.nearest is not None else None
        panels = tuple(
            Panel(model=name, title=title, image=run.put(path, path.name))
            for name, (title, path) in drawn.panels.items()
        )
    kind = "class-conditional" if dataset.result.classes else "unconditional"
    return RunResult(
        recipe=recipe.name,
        recipe_sha256=digest_of(recipe.model_dump(mode="json")),
        title=f"{recipe.name} {dataset.result.resolution}x{dataset.result.resolution}, {kind}",
        rows=tuple(rows),
        verdict=verdict(recipe, rows),
        generator=generator.result.weights,
        grid=grid,
        panels=panels,
        nearest=nearest,
        evidence=evidence,
        licence=generator.result.licence,
        regression=judge(scores.rows, last) if last is not None else None,
    )


def verdict(recipe: Recipe, rows: list[Score]) -> str:
    """Who is ahead, by how much, and whether the targets are met, in words."""
    score = {row.model: row for row in rows}
    teacher, generator = score["teacher"], score["generator"]
    ratio = generator.mean / teacher.mean
    met = "within" if ratio <= recipe.gate.generator_within else "outside"
    comparison = against_teacher(recipe, generator, teacher)
    published = target_gate(recipe, generator)
    return (
        f"{comparison[0].upper()}{comparison[1:]}, ratio {ratio:.2f}; {met} the recipe's limit of "
        f"{recipe.gate.generator_within:g} times the teacher.{'' if published is None else f' Published: {published}.'}"
        f"{_as_expected(recipe, teacher, generator)}"
    )


def _as_expected(recipe: Recipe, teacher: Score, generator: Score) -> str:
    """Whether the numbers are those that the recipe was recorded with."""
    if recipe.expected is None:
        return ""
    found = {"teacher": teacher.mean, "generator": generator.mean}
    ranges: dict[str, tuple[float, float]] = {name: getattr(recipe.expected, name) for name in found}
    wrong = [
        f"{name} {found[name]:.3f} is outside of {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if not low <= found[name] <= high
    ]
    return f" Not what the recipe records: {', '.join(wrong)}." if wrong else " Both as the recipe records."


def table(manifest: Manifest[RunResult]) -> list[tuple[str, str, str, str]]:
    """Rows of (model, NFE, score, images/s), the heading first."""
    result = manifest.result
    notes = manifest.about.notes
    rates = {
        "teacher": notes.get("teacher_scores_images_per_second"),
        "generator": notes.get("scores_images_per_second"),
    }
    ranges = len(result.rows[0].values)
    heading = f"{result.rows[0].metric} (mean +- sd over {ranges} held-out seed ranges, n = {result.rows[0].n:,})"
    lines = [(result.title, "NFE", heading, "images/s")]
    for row in result.rows:
        rate = rates.get(row.model)
        lines.append(
            (
                row.label,
                "-" if row.nfe is None else str(row.nfe),
                f"{row.mean:.3f} +- {row.sd:.3f}",
                "-" if rate is None else f"{float(rate):,.0f}",
            )
        )
    return lines


def standing_of(manifest: Manifest[RunResult]) -> dict[str, float]:
    """Numbers for the KFP page: the generator's score, the ratio to its teacher's, and how it stands to the last one."""
    result = manifest.result
    score = {row.model: row for row in result.rows}
    numbers = {f"generator_{score['generator'].metric}": score["generator"].mean}
    numbers["generator_over_teacher"] = score["generator"].mean / score["teacher"].mean
    if (found := result.regression) is not None:
        numbers |= {"last": found.before, "worse_by": found.worse_by, "regressed": float(found.regressed)}
    return numbers


def markdown(manifest: Manifest[RunResult], mlflow: str = "") -> str:
    """The table and the verdict for the KFP page, with a link to MLflow if there is one."""
    result = manifest.result
    heading, *rows = table(manifest)
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if result.regression is not None:
        lines += ["", in_words(result.regression)]
    lines += ["", result.verdict, "", f"Licence of the weights: {result.licence}"]
    if mlflow:
        lines += ["", f"[Curves, scores and models in MLflow](<{mlflow}>)"]
    return "\n".join([*lines, ""])
