"""A finished run as one self-contained web page under 5 MB. Its numbers come from manifests and their objects."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sida.launch.spec import parse_curve
from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    ReferenceResult,
    RunResult,
    Score,
    ScoresResult,
    TeacherResult,
)
from sida.recipe import Recipe, names
from sida.report.charts import Chart, intervals, svg
from sida.report.compare import table
from sida.report.render import png, render
from sida.scoring import words
from sida.scoring.gates import versus
from sida.scoring.label_rule import LABELS
from sida.scoring.noise import NOISE
from sida.stores.base import ObjectRef

if TYPE_CHECKING:
    from sida.stores import ObjectStore

Curve = list[dict[str, float]]

PICTURE_BYTES = 800_000  # a larger picture is left out: the page travels through KFP
_ROWS = 40  # of a curve's table


def page_of(recipe: Recipe, inputs: Mapping[str, Manifest[Any]], store: ObjectStore, curve: Curve) -> str:
    """Return HTML for one run's manifests: run, teacher, generator, dataset, reference, teacher_scores and scores."""
    run: RunResult = inputs["run"].result
    data: DatasetResult = inputs["dataset"].result
    evidence = json.loads(store.read(run.evidence.key))
    score = {row.model: row for row in run.rows}
    standing = versus(score["generator"], score["teacher"])
    manifests = sorted(inputs.values(), key=lambda manifest: manifest.about.created)
    return render(
        "report.html",
        run=run,
        recipe=recipe,
        created=inputs["run"].about.created.replace("T", " ").replace("+00:00", " UTC"),
        standing=standing.kind,
        headline=words.headline(standing),
        verdict=run.verdict.replace("+-", "\u00b1"),
        regression=words.regression(run.regression) if run.regression else "",
        table=table(inputs["run"], page=True),
        metric_note=_metric_note(inputs["run"]),
        by_steps=_by_steps(score["generator"], score["teacher"], inputs["scores"].result),
        seed_note=f"from {evidence['first_seed']:,}",
        panels=[{"title": p.title, "data": _picture(store, p.image)} for p in run.panels],
        nearest=_picture(store, run.nearest) if run.nearest is not None else "",
        neighbors=3,
        evidence=evidence,
        charts=[
            _shown(chart, note, 7.6 if number == 0 else 5.2)
            for number, (chart, note) in enumerate(charts(recipe, run, curve))
            if not chart.empty
        ],
        data=data,
        data_picture=_picture(store, data.picture) if data.picture else "",
        left_out=_left_out(data),
        health=_health(curve, inputs["generator"], recipe.evaluation.selection_images),
        timing=_timing(manifests),
        total_seconds=sum(manifest.about.seconds for manifest in manifests),
        iteration=sorted(_noted(inputs["generator"], "milliseconds_").items(), key=lambda item: -item[1]),
        facts=_facts(recipe, inputs, store.address),
        manifests=manifests,
        commands=_commands(recipe, inputs["run"]),
        recipe_text=recipe.model_dump_json(indent=1),
    )


def charts(recipe: Recipe, run: RunResult, curve: Curve) -> list[tuple[Chart, str]]:
    """Return the curves of a distillation with a note each; a chart may be empty."""
    metric = recipe.evaluation.metric
    means = {row.model: row.mean for row in run.rows}
    held_out = {row.model: f"n = {row.n:,}" for row in run.rows}
    levels = {f"teacher, {held_out['teacher']}": means["teacher"]}
    levels |= {f"floor (real images), {held_out['real']}": means["real"]} if "real" in means else {}
    named = [
        ("Loss of the fake score", "loss", {"fake score": "loss_psi"}),
        ("Loss of the discriminator", "loss", {"discriminator": "loss_D"}),
        ("SiD loss of the generator", "loss", {"generator": "loss_sid"}),
        ("Adversarial loss of the generator", "loss", {"generator": "loss_adv"}),
        ("Gradient norms", "norm", {"fake score": "gradient_psi", "generator": "gradient_theta"}),
        ("Discriminator's belief that an image is real", "probability", {"real": "D_real", "generated": "D_fake"}),
    ]
    score = {"generator": series(curve, "score")}
    selected = f"n = {recipe.evaluation.selection_images:,}"
    first = Chart(
        f"{metric} over training: selection scores, {selected}",
        f"{metric}, {selected}",
        score,
        levels,
        logarithmic=all(y > 0 for _, y in score["generator"]),
    )
    note = (
        f"The curve is measured on selection seeds (n = {recipe.evaluation.selection_images:,}), which chose the checkpoint; "
        f"the lines on held-out seeds (n = {recipe.evaluation.images:,}). At smaller n a score is larger."
    )
    drawn = [(first, note)]
    for title, unit, keys in named:
        lines = {label: points for label, key in keys.items() if (points := series(curve, key))}
        log = unit == "norm" and all(y > 0 for points in lines.values() for _, y in points)
        drawn.append((Chart(title, unit, lines, logarithmic=log), ""))
    return drawn


def curve_of(store: ObjectStore, generator: GeneratorResult) -> Curve:
    """Return the points of a distillation; none of a generator that was made elsewhere."""
    return [] if generator.curve is None else parse_curve(store.read(generator.curve.key))


def series(curve: Curve, name: str) -> list[tuple[float, float]]:
    """Return (kimg, value) of one quantity."""
    return [(point["images"] / 1000, point[name]) for point in curve if name in point]


def discriminator_lead(curve: Curve) -> float | None:
    """Return the discriminator's belief in real images less that in generated ones at the end; None without any."""
    real, fake = series(curve, "D_real"), series(curve, "D_fake")
    return real[-1][1] - fake[-1][1] if real and fake else None


def _shown(chart: Chart, note: str, width: float) -> dict[str, Any]:
    every = sorted({x for points in chart.lines.values() for x, _ in points})
    step = -(-len(every) // _ROWS)
    kept = sorted({*every[::step], every[-1]})
    values = {name: dict(points) for name, points in chart.lines.items()}
    rows = [[f"{x:g}"] + [f"{v[x]:.4g}" if x in v else "" for v in values.values()] for x in kept]
    return {"title": chart.title, "note": note, "svg": svg(chart, width), "names": list(values), "rows": rows}


def _picture(store: ObjectStore, image: ObjectRef) -> str:
    """Return the picture as a data address; an empty image when it is too large to travel."""
    return png(store.read(image.key)) if image.size <= PICTURE_BYTES else "data:,"


def _left_out(data: DatasetResult) -> str:
    """Return what was left out or changed of the source; empty for nothing."""
    excluded = data.excluded
    parts = (
        (excluded.unreadable, "unreadable images left out"),
        (excluded.duplicates, "duplicates left out"),
        (excluded.kept_duplicates, "duplicates kept, as published"),
        (excluded.ignored_files, "other files passed over"),
        (excluded.rotated, "images with an EXIF rotation, which is ignored as in the published sets"),
    )
    return "; ".join(f"{count:,} {kind}" for count, kind in parts if count)


def _metric_note(run: Manifest[RunResult]) -> str:
    rows = run.result.rows
    row, labels = rows[0], run.about.notes.get(LABELS)
    other = f"{row.metric}: Frechet distance of this data set's own detector; it is not FID"
    return (
        f"{'FID' if row.metric == 'fid' else other}. The lower the better; mean and standard deviation over "
        f"{words.held_out_ranges(rows)}, of {row.n:,} images each. "
        f"{f'Labels: {labels}. ' if labels else ''}NFE: network evaluations for an image."
    )


def _by_steps(last: Score, teacher: Score, scores: ScoresResult) -> dict[str, Any] | None:
    """Return the score after each step of a generator that takes several, beside its teacher's; None for one step."""
    if not scores.by_steps:
        return None
    steps = [*scores.by_steps, last]
    named = [
        *((f"{row.nfe} step{'s' * (row.nfe != 1)}", row) for row in steps),
        (f"teacher, {teacher.nfe} NFE", teacher),
    ]
    return {
        "note": f"{last.metric} of the images after each step, on the seeds of the last: {len(last.values)} held-out ranges "
        f"of {last.n:,} images. Dots and bars: means and their 95% intervals. Only the last step's images chose the checkpoint.",
        "svg": intervals([(name, row.mean, row.interval or 0.0) for name, row in named], last.metric),
        "rows": [(name, words.score_text(row.mean, words.spread(row), "\u00b1"), _half(row)) for name, row in named],
    }


def _half(row: Score) -> str:
    return "-" if row.interval is None else f"\u00b1 {row.interval:.3f}"


def _health(curve: Curve, generator: Manifest, selection_images: int) -> list[tuple[str, str, str]]:
    result: GeneratorResult = generator.result  # type: ignore[assignment]
    dropped = sum(y for _, y in series(curve, "dropped"))
    score = result.selection_score
    selected = (
        "made elsewhere, without a selection score"
        if score is None
        else f"selection score {score:.4g} (n = {selection_images:,})"
    )
    rows = [
        ("images seen", f"{max((p['images'] for p in curve), default=0):,.0f}", "the whole distillation"),
        ("chosen checkpoint", f"{result.images_seen:,}", f"images; {selected}"),
        ("skipped samples", f"{dropped:,.0f}", "samples with a NaN, left out of the losses"),
    ]
    if (noise := generator.about.notes.get(NOISE)) is not None:
        rows.insert(0, ("turned to noise", "yes", str(noise)))
    for key, network in (("gradient_theta", "generator"), ("gradient_psi", "fake score")):
        if values := sorted(y for _, y in series(curve, key)):
            norms = f"{_short(values[len(values) // 2])} / {_short(values[-1])}"
            rows.append((f"{network}'s gradient norm", norms, "median, and largest mean of a window"))
    if (gap := discriminator_lead(curve)) is not None:
        balance = "0 is a perfect balance, 1 a discriminator that has won"
        meaning = (
            f"its belief in real less in generated images; {balance if gap >= 0 else 'takes generated images for real'}"
        )
        rows.append(("discriminator's lead at the end", f"{gap:.3f}", meaning))
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _timing(manifests: list[Manifest]) -> list[tuple[str, float, bool]]:
    """Return (name, seconds, whether it is a part of the step above) of each step and of its known parts."""
    rows = []
    for manifest in manifests:
        step = manifest.about.step
        rows.append((step, manifest.about.seconds, False))
        rows += [(f"{step}: {part}", seconds, True) for part, seconds in _noted(manifest, "seconds_").items()]
    return rows


def _noted(manifest: Manifest, prefix: str) -> dict[str, float]:
    """Return the notes of a step whose names begin with ``prefix``, by the rest of their names."""
    notes = manifest.about.notes.items()
    return {name.removeprefix(prefix): float(value) for name, value in notes if name.startswith(prefix)}


def _facts(recipe: Recipe, inputs: Mapping[str, Manifest[Any]], store: str) -> list[tuple[str, str]]:
    teacher: TeacherResult = inputs["teacher"].result
    result: GeneratorResult = inputs["generator"].result
    reference: ReferenceResult = inputs["reference"].result
    run: RunResult = inputs["run"].result
    about, evaluation = inputs["generator"].about, recipe.evaluation
    first = run.rows[0]
    held_out = f"{first.first_seeds[0]:,} to {first.first_seeds[-1] + first.n - 1:,}"
    return [
        ("store", store),
        ("generator", result.weights.key),
        ("generator, sha256", result.weights.sha256),
        ("teacher, sha256", teacher.weights.sha256),
        ("detector, sha256", reference.detector_sha256),
        *([("second detector, sha256", reference.second.detector_sha256)] if reference.second else []),
        ("recipe, sha256", run.recipe_sha256),
        (
            "seeds",
            f"training {recipe.method.seed}; selection 0 to {evaluation.selection_images - 1:,}; held out {held_out}",
        ),
        ("processes", f"{recipe.execution.processes} with {recipe.execution.threads} threads each"),
        *((f"distilled with {name}" if name != "commit" else name, value) for name, value in about.machine.items()),
    ]


def _commands(recipe: Recipe, run: Manifest) -> str:
    commit = run.about.machine.get("commit", "COMMIT").removesuffix("-dirty")
    saved = "./recipe.yaml   # the resolved recipe below, saved under this name"
    name = recipe.name if recipe.name in names() else saved
    return f"git checkout {shlex.quote(commit)}\nmake setup\n.venv/bin/sida run {name}"
