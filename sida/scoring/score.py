"""The steps score_teacher (a gate before distilling) and score (the generator)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from sida.errors import UserError
from sida.foreign.fetch import fetch_file
from sida.launch.job import run_job
from sida.launch.spec import ManifestRef, ScoreOutcome, ScoreSpec
from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    ReferenceResult,
    ScoresResult,
    TeacherResult,
    input_of,
)
from sida.recipe import Recipe
from sida.scoring.adopt import as_safetensors
from sida.scoring.gates import teacher_fault
from sida.scoring.label_rule import LABELS, exact_counts, label_rule
from sida.scoring.result import check_reference, further_metrics, measured_in, note_if_few, scores_result
from sida.scoring.series import remember
from sida.scoring.words import steps_taken
from sida.steps import From, Made, StepRun, carried, step
from sida.stores.base import ObjectRef
from sida.teachers.formats import read_network

SOURCES = ("sida/scoring", "sida/numerics", "sida/data/shards.py", "sida/worker/ranks.py", "sida/worker/meeting.py")


def first_seeds(recipe: Recipe, ranges: int | None = None) -> list[int]:
    """Return where each reported seed range begins."""
    evaluation = recipe.evaluation
    return [evaluation.first_seed + i * evaluation.images for i in range(ranges or evaluation.ranges)]


def _measured(run: StepRun, seeds: list[int], n: int, *, floor: bool, guide: ObjectRef | None = None) -> ScoreOutcome:
    recipe = run.recipe
    spec = ScoreSpec(
        model=ManifestRef.of(run.inputs["model"]),
        dataset=ManifestRef.of(run.inputs["dataset"]),
        reference=ManifestRef.of(run.inputs["reference"]),
        first_seeds=tuple(seeds),
        count=n,
        extra_metrics=tuple(recipe.evaluation.extra_metrics),
        floor=floor,
        guide=guide,
    )
    outcome = run_job(run, spec)
    run.notes["images_per_second"] = round(outcome.images_per_second, 1)
    run.notes["sampling_batch"] = outcome.batch
    run.notes[LABELS] = _labels(run.inputs, n)
    note_if_few(run, n, outcome)
    return outcome


def _labels(inputs: Mapping[str, Manifest[Any]], n: int) -> str:
    histogram = input_of(inputs, "dataset", DatasetResult).result.histogram
    return label_rule(exact_counts(histogram, n) if histogram else (), histogram)


def _labels_repeated(made: Made[ScoresResult], n: int) -> dict[str, Any]:
    """Return the note on labels, of which older versions made none."""
    return {f"about.notes.{LABELS}": _labels(made.inputs, n)} if LABELS in made.about.notes else {}


def _asks(recipe: Recipe, seeds: list[int], n: int) -> dict[str, Any]:
    precision = {} if recipe.score_precision == "float32" else {"precision": recipe.score_precision}
    return {"images": n, "first_seeds": seeds, **further_metrics(recipe), **precision}


def _asks_of_teacher(recipe: Recipe) -> dict[str, Any]:
    seeds, n = first_seeds(recipe, recipe.evaluation.teacher_ranges), _teacher_images(recipe)
    return _asks(recipe, seeds, n) | {"sampler": recipe.teacher.sampler.model_dump(mode="json")}


def _asks_of_generator(recipe: Recipe) -> dict[str, Any]:
    target = recipe.targets.model_dump(mode="json", exclude=unsaid(recipe)) if recipe.targets else None
    asked = _asks(recipe, first_seeds(recipe), recipe.evaluation.images)
    return asked | {"protocol": recipe.evaluation.protocol, "target": target}


def _teacher_images(recipe: Recipe) -> int:
    return recipe.gate.teacher_images or recipe.evaluation.images


def unsaid(recipe: Recipe) -> set[str]:
    """Return fields of the targets that the verdict does not mention; without them the key is what it was before there were any."""
    unknown = {name for name in ("sida", "sid2a") if getattr(recipe.targets, name) is None}
    return unknown if recipe.in_another_precision else unknown | {"precision"}


def _of_teacher(
    recipe: Recipe, inputs: Mapping[str, Manifest[Any]], measured: ScoreOutcome, guide: ObjectRef | None
) -> ScoresResult:
    teacher, sampler = input_of(inputs, "model", TeacherResult).result, recipe.teacher.sampler
    guided = "" if sampler.guidance == 1 else f", guidance {sampler.guidance:g}"
    return scores_result(
        recipe,
        input_of(inputs, "reference", ReferenceResult),
        measured,
        n=_teacher_images(recipe),
        seeds=first_seeds(recipe, recipe.evaluation.teacher_ranges),
        model="teacher",
        label=f"teacher, Heun {sampler.steps} steps{guided}",
        nfe=sampler.nfe,
        sampler=f"Heun, {sampler.steps} steps{guided}",
        checkpoint_sha256=teacher.weights.sha256,
        licence=teacher.licence,
        precision=recipe.score_precision,
        guide=guide,
    )


def _teacher_repeats(made: Made[ScoresResult]) -> dict[str, Any]:
    measured = measured_in(made.recipe, made.result, floor=True)
    labels = _labels_repeated(made, _teacher_images(made.recipe))
    return dict(_of_teacher(made.recipe, made.inputs, measured, made.result.guide)) | labels


def _of_generator(recipe: Recipe, inputs: Mapping[str, Manifest[Any]], measured: ScoreOutcome) -> ScoresResult:
    generator, seeds = input_of(inputs, "model", GeneratorResult).result, first_seeds(recipe)
    protocol = recipe.evaluation.protocol
    return scores_result(
        recipe,
        input_of(inputs, "reference", ReferenceResult),
        measured,
        n=recipe.evaluation.images,
        seeds=seeds,
        model="generator",
        label=f"generator, {generator.method}" + (f", best of {len(seeds)} ranges" if protocol == "best" else ""),
        nfe=generator.steps,
        sampler=steps_taken(generator.steps),
        checkpoint_sha256=generator.weights.sha256,
        licence=generator.licence,
        protocol=protocol,
        precision=recipe.score_precision,
    )


def _generator_repeats(made: Made[ScoresResult]) -> dict[str, Any]:
    labels = _labels_repeated(made, made.recipe.evaluation.images)
    return dict(_of_generator(made.recipe, made.inputs, measured_in(made.recipe, made.result))) | labels


def _guide_file(recipe: Recipe) -> tuple[Path, str] | None:
    """Return the guide's file and its sha256; None for a teacher without guidance."""
    guide = recipe.teacher.guide
    if recipe.teacher.sampler.guidance == 1 or guide is None:
        return None
    return fetch_file(
        guide.address,
        "guide",
        guide.sha256,
        step="score_teacher",
        check=lambda path: read_network(path, f"guide {path}"),
    )


def _stored_guide(run: StepRun, path: Path) -> ObjectRef:
    """Return the guide's weights as safetensors, converted without running anything in the file."""
    guide = run.recipe.teacher.guide
    assert guide is not None
    with tempfile.TemporaryDirectory() as folder:
        weights = as_safetensors(path, guide.network.model_dump(mode="json"), Path(folder))
        return run.put(weights, "guide.safetensors")


def _refuse_weak_teacher(run: StepRun, scores: Manifest[ScoresResult]) -> None:
    if fault := teacher_fault(run.recipe, scores.result, run.inputs["reference"].result):
        if run.recipe.gate.on_failure == "stop":
            raise UserError(fault)
        run.note(fault)


@step(
    version=2,
    sources=SOURCES,
    launches=True,
    measures=True,
    asks=_asks_of_teacher,
    repeats=_teacher_repeats,
    carries={"dataset": ("reference", "dataset")},
    after=_refuse_weak_teacher,
)
def score_teacher(
    run: StepRun,
    recipe: Recipe,
    teacher: Annotated[Manifest[TeacherResult], From("fetch_teacher", "teach")],
    reference: Annotated[Manifest[ReferenceResult], From("reference_statistics")],
) -> ScoresResult:
    """Score the teacher under its own sampler; a gate before anything is distilled.

    Args:
        teacher: The teacher.
        reference: Feature moments of the training set; it names the data, whose labels are drawn from.

    Returns:
        The teacher's score and the floor that real images reach.
    """
    check_reference(recipe, reference.result)
    seeds, n = first_seeds(recipe, recipe.evaluation.teacher_ranges), _teacher_images(recipe)
    guide = _guide_file(recipe)
    parameters = {"guide": guide[1]} if guide else {}
    # The data, whose labels are drawn from, are those that the reference was computed of.
    run.claim(parameters, model=teacher, dataset=carried(reference, "dataset", DatasetResult), reference=reference)
    stored = guide and _stored_guide(run, guide[0])
    return _of_teacher(recipe, run.inputs, _measured(run, seeds, n, floor=True, guide=stored), stored)


def _remember(run: StepRun, scores: Manifest[ScoresResult]) -> None:
    remember(run.store, run.recipe, scores)
    if scores.result.gate:
        run.note(scores.result.gate)


@step(
    version=2,
    sources=SOURCES,
    launches=True,
    measures=True,
    per_recipe=True,
    asks=_asks_of_generator,
    repeats=_generator_repeats,
    carries={"dataset": ("reference", "dataset")},
    after=_remember,
)
def score(
    run: StepRun,
    recipe: Recipe,
    generator: Annotated[Manifest[GeneratorResult], From("distill", "fetch_released")],
    reference: Annotated[Manifest[ReferenceResult], From("reference_statistics")],
) -> ScoresResult:
    """Score the generator on held-out seed ranges.

    Args:
        generator: The generator; of one with several steps the images after each are scored.
        reference: Feature moments of the training set; it names the data, whose labels are drawn from.

    Returns:
        The generator's score: every range, mean and spread.
    """
    check_reference(recipe, reference.result)
    run.claim(model=generator, dataset=carried(reference, "dataset", DatasetResult), reference=reference)
    measured = _measured(run, first_seeds(recipe), recipe.evaluation.images, floor=False)
    return _of_generator(recipe, run.inputs, measured)
