"""The step compare: the table, the verdict in words, and the sample grid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sida.manifests import DatasetResult, GeneratorResult, Manifest, RunResult, Score, TeacherResult, digest_of
from sida.manifests import read_manifest as read
from sida.recipe import Recipe
from sida.report.regression import difference_interval, in_words, judge
from sida.scoring.series import previous
from sida.settings import settings
from sida.steps import Context, Published, step
from sida.stores import ObjectStore, open_store
from sida.stores.base import fetch_object


@step("compare", version=2, sources=("sida/report", "sida/scoring", "sida/numerics"))
def compare(
    context_of: Any,
    *,
    recipe: Recipe,
    teacher: str,
    generator: str,
    dataset: str,
    teacher_scores: str,
    scores: str,
    attempt: str = "",
) -> Published:
    """Put the scores side by side and draw samples from the same seeds and labels."""
    inputs = {
        "teacher": read(teacher, "teacher"),
        "generator": read(generator, "generator"),
        "dataset": read(dataset, "dataset"),
        "teacher_scores": read(teacher_scores, "scores"),
        "scores": read(scores, "scores"),
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
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "samples.png"
            _draw_grid(path, context.store, recipe, inputs)
            grid = context.put(path, path.name)
        data: DatasetResult = inputs["dataset"].result  # type: ignore[assignment]
        kind = "class-conditional" if data.classes else "unconditional"
        return RunResult(
            recipe=recipe.name,
            recipe_sha256=digest_of(recipe.model_dump(mode="json")),
            title=f"{recipe.name} {data.resolution}x{data.resolution}, {kind}",
            rows=tuple(rows),
            verdict=verdict(recipe, rows),
            generator=made.weights,
            grid=grid,
            licence=made.licence,
            regression=judge(inputs["scores"].rows, last) if last is not None else None,
        )

    parameters = {"gate": recipe.gate.model_dump(mode="json"), "recipe": recipe.name}
    return context_of(parameters=parameters, inputs=inputs, produce=produce, attempt=attempt)


def verdict(recipe: Recipe, rows: list[Score]) -> str:
    """Who is ahead, by how much, and whether the target is met, in words."""
    score = {row.model: row for row in rows}
    teacher, generator = score["teacher"], score["generator"]
    ratio = generator.mean / teacher.mean
    half = difference_interval(generator, teacher)
    margin = generator.mean - teacher.mean
    evaluations = f"{teacher.nfe} evaluations ({teacher.sampler})"
    if margin < -half:
        standing = f"surpasses its teacher at {evaluations}"
    elif margin <= half:
        standing = f"is level with its teacher at {evaluations}"
    else:
        standing = f"is behind its teacher at {evaluations}"
    met = "within" if ratio <= recipe.gate.generator_within else "outside"
    return (
        f"The one-step generator {standing}: {generator.metric} {generator.mean:.3f} against {teacher.mean:.3f}, "
        f"difference {margin:+.3f} +- {half:.3f} (95%), ratio {ratio:.2f}; {met} the recipe's limit of "
        f"{recipe.gate.generator_within:g} times the teacher."
    )


def table(manifest: Manifest) -> list[tuple[str, str, str, str]]:
    """Rows of (model, NFE, score, images/s), the heading first."""
    result: RunResult = manifest.result  # type: ignore[assignment]
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


def standing_of(manifest: Manifest) -> dict[str, float]:
    """Numbers for the KFP page: the generator's score, the ratio to its teacher's, and how it stands to the last one."""
    result: RunResult = manifest.result  # type: ignore[assignment]
    score = {row.model: row for row in result.rows}
    numbers = {f"generator_{score['generator'].metric}": score["generator"].mean}
    numbers["generator_over_teacher"] = score["generator"].mean / score["teacher"].mean
    if (found := result.regression) is not None:
        numbers |= {"last": found.before, "worse_by": found.worse_by, "regressed": float(found.regressed)}
    return numbers


def markdown(manifest: Manifest) -> str:
    """The table and the verdict for the KFP page."""
    result: RunResult = manifest.result  # type: ignore[assignment]
    heading, *rows = table(manifest)
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if result.regression is not None:
        lines += ["", in_words(result.regression)]
    return "\n".join([*lines, "", result.verdict, "", f"Licence of the weights: {result.licence}", ""])


def _draw_grid(path: Path, store: ObjectStore, recipe: Recipe, inputs: dict[str, Manifest]) -> None:
    import torch

    from sida.data.shards import Shards, one_hot
    from sida.report.grid import GRID_COLUMNS, GRID_ROWS, Panel, draw_panels
    from sida.scoring.measure import generator_images, teacher_images
    from sida.scoring.score import first_seeds
    from sida.teachers.files import load_network

    torch.set_num_threads(recipe.execution.threads)
    data: DatasetResult = inputs["dataset"].result  # type: ignore[assignment]
    teacher: TeacherResult = inputs["teacher"].result  # type: ignore[assignment]
    made: GeneratorResult = inputs["generator"].result  # type: ignore[assignment]
    count = GRID_ROWS * GRID_COLUMNS
    labels = (
        torch.arange(count) % max(1, min(data.classes, GRID_COLUMNS)) if data.classes else torch.zeros(count).long()
    )
    seeds = first_seeds(recipe)[0] + torch.arange(count)
    c = one_hot(labels, data.classes)
    shards = Shards(store, data)
    images, real_labels = shards.read(torch.arange(min(len(shards), 100 * count)))
    chosen = []
    members = {label: torch.nonzero(real_labels == label).flatten() for label in set(labels.tolist())}
    for position, label in enumerate(labels.tolist()):
        pool = members[label] if data.classes else torch.arange(len(images))
        chosen.append(int(pool[(position // GRID_COLUMNS) % len(pool)]))
    with torch.no_grad():
        phi = load_network(fetch_object(store, teacher.weights), teacher.network).eval()
        theta = load_network(fetch_object(store, made.weights), made.network).eval()
        by_teacher = teacher_images(phi, recipe.teacher.sampler)(seeds, c)
        by_generator = generator_images(theta, made.sigma_init)(seeds, c)
    panels = [
        Panel("real", images[torch.tensor(chosen)]),
        Panel(f"teacher, {recipe.teacher.sampler.nfe} evaluations", by_teacher),
        Panel(f"generator ({made.method}), 1 evaluation", by_generator),
    ]
    draw_panels(path, panels)
