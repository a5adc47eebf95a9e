"""The steps score_teacher (a gate before distilling) and score (the generator)."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
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
    Score,
    ScoresResult,
    TeacherResult,
)
from sida.recipe import Recipe
from sida.scoring.adopt import as_safetensors
from sida.scoring.gates import teacher_gate
from sida.scoring.interval import half_width
from sida.scoring.series import remember
from sida.scoring.words import target_gate
from sida.steps import From, StepRun, carried, step
from sida.stores.base import ObjectRef

SOURCES = (
    "sida/scoring",
    "sida/numerics",
    "sida/data/shards.py",
    "sida/worker/ranks.py",
    "sida/worker/meeting.py",
)
FEW = 10  # images per feature, below which the sample's size shows in the score


def first_seeds(recipe: Recipe, ranges: int | None = None) -> list[int]:
    """Return where each reported seed range begins."""
    evaluation = recipe.evaluation
    return [evaluation.first_seed + i * evaluation.images for i in range(ranges or evaluation.ranges)]


def row(recipe: Recipe, values: Sequence[float], *, n: int, seeds: list[int], metric: str = "", **fields: Any) -> Score:
    """Return one row of the table from the values of its seed ranges."""
    return Score(
        metric=metric or recipe.evaluation.metric,
        values=tuple(values),
        first_seeds=tuple(seeds),
        n=n,
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else 0.0,
        interval=half_width(values),
        **fields,
    )


def further_name(recipe: Recipe, metric: str) -> str:
    """Return ``kid``, or ``kid_digits`` if the features are not Inception's."""
    own = recipe.evaluation.metric
    return metric + own.removeprefix("fd") if own.startswith("fd_") else metric


def check_reference(recipe: Recipe, made: ReferenceResult) -> None:
    """Refuse a reference that was made with another detector, or for another metric."""
    detector = recipe.evaluation.detector
    if detector.sha256 is not None and made.detector_sha256 != detector.sha256:
        raise UserError(
            f"the reference was made with detector {made.detector_sha256[:12]}, the recipe's is {detector.sha256[:12]}: "
            f"run reference_statistics with this recipe"
        )
    if (made.metric, made.features) != (recipe.evaluation.metric, detector.features):
        raise UserError(
            f"the reference is for {made.metric} with {made.features} features, the recipe's metric is "
            f"{recipe.evaluation.metric} with {detector.features}: run reference_statistics with this recipe"
        )


def _claim(
    run: StepRun,
    parameters: dict[str, Any],
    model: Manifest[TeacherResult] | Manifest[GeneratorResult],
    reference: Manifest[ReferenceResult],
) -> None:
    """Claim what a score rests on; the data, whose labels are drawn from, are those that the reference was computed of."""
    run.claim(parameters, model=model, dataset=carried(reference, "dataset", DatasetResult), reference=reference)


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
    features = recipe.evaluation.detector.features
    if n < FEW * features:
        run.note(
            f"{n:,} images are few for {features:,} features, and scores fall with their number: {_size_effect(outcome)}; "
            f"compare it only with scores of as many images",
        )
    return outcome


def _size_effect(measured: ScoreOutcome) -> str:
    """Return the sample size's effect on the score: measured on real images if they are there, else the theory and its terms."""
    bias = f"{measured.sampling_bias:.3g}"
    theory = f"a perfect model would score {bias} were the features Gaussian and the labels drawn at random"
    if measured.floor:
        return f"as many real images score {statistics.fmean(measured.floor):.3g} ({theory})"
    return f"{theory} (exact class shares, as here, make it less)"


def _result(
    recipe: Recipe,
    reference: Manifest[ReferenceResult],
    measured: ScoreOutcome,
    first: Score,
    licence: str,
    **fields: Any,
) -> ScoresResult:
    """Return the model's row, the real images' if they were measured, and further metrics of the same images."""
    seeds, n = list(first.first_seeds), first.n
    rows = [first]
    if measured.floor:
        rows.append(
            row(
                recipe,
                measured.floor,
                n=n,
                seeds=seeds,
                model="real",
                label="real resamples",
                nfe=None,
                sampler="with replacement, class by class",
                checkpoint_sha256=None,
            )
        )
    same = {name: getattr(first, name) for name in ("model", "label", "nfe", "sampler", "checkpoint_sha256")}
    further = [
        row(recipe, values, n=n, seeds=seeds, metric=further_name(recipe, name), **same)
        for name, values in measured.further.items()
    ]
    return ScoresResult(
        rows=tuple(rows),
        detector_sha256=reference.result.detector_sha256,
        reference_digest=reference.digest,
        licence=licence,
        sampling_bias=measured.sampling_bias,
        further=tuple(further),
        precision=None if recipe.score_precision == "float32" else recipe.score_precision,
        **fields,
    )


def _parameters(recipe: Recipe, seeds: list[int], n: int) -> dict[str, Any]:
    evaluation = recipe.evaluation
    precision = {} if recipe.score_precision == "float32" else {"precision": recipe.score_precision}
    return {"images": n, "first_seeds": seeds, "extra_metrics": list(evaluation.extra_metrics), **precision}


def unsaid(recipe: Recipe) -> set[str]:
    """Return fields of the targets that the verdict does not mention; without them the key is what it was before there were any."""
    unknown = {name for name in ("sida", "sid2a") if getattr(recipe.targets, name) is None}
    return unknown if recipe.in_another_precision else unknown | {"precision"}


def _guide_file(recipe: Recipe) -> tuple[Path, str] | None:
    """Return the guide's file and its sha256; None for a teacher without guidance."""
    if recipe.teacher.sampler.guidance == 1 or recipe.teacher.guide is None:
        return None

    return fetch_file(recipe.teacher.guide.address, "guide", recipe.teacher.guide.sha256, step="score_teacher")


def _guide_key(guide: tuple[Path, str] | None) -> dict[str, str]:
    return {} if guide is None else {"guide": guide[1]}


def _stored_guide(run: StepRun, path: Path) -> ObjectRef:
    """Return the guide's weights as safetensors, converted without running anything in the file."""
    guide = run.recipe.teacher.guide
    assert guide is not None
    with tempfile.TemporaryDirectory() as folder:
        weights = as_safetensors(path, guide.network.model_dump(mode="json"), Path(folder))
        return run.put(weights, "guide.safetensors")


def _refuse_weak_teacher(run: StepRun, scores: Manifest[ScoresResult]) -> None:
    gate = teacher_gate(run.recipe, scores.result, run.inputs["reference"].result)
    if not gate.passed:
        if run.recipe.gate.on_failure == "stop":
            raise UserError(gate.text)
        run.note(gate.text)


@step(version=2, sources=SOURCES, launches=True, measures=True, after=_refuse_weak_teacher)
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
    sampler = recipe.teacher.sampler
    seeds = first_seeds(recipe, recipe.evaluation.teacher_ranges)
    n = recipe.gate.teacher_images or recipe.evaluation.images
    guide = _guide_file(recipe)
    parameters = _parameters(recipe, seeds, n) | {"sampler": sampler.model_dump(mode="json"), **_guide_key(guide)}
    _claim(run, parameters, teacher, reference)
    stored = guide and _stored_guide(run, guide[0])
    measured = _measured(run, seeds, n, floor=True, guide=stored)
    guided = "" if sampler.guidance == 1 else f", guidance {sampler.guidance:g}"
    first = row(
        recipe,
        measured.values,
        n=n,
        seeds=seeds,
        model="teacher",
        label=f"teacher, Heun {sampler.steps} steps{guided}",
        nfe=sampler.nfe,
        sampler=f"Heun, {sampler.steps} steps{guided}",
        checkpoint_sha256=teacher.result.weights.sha256,
    )
    return _result(recipe, reference, measured, first, teacher.result.licence, guide=stored)


def _remember(run: StepRun, scores: Manifest[ScoresResult]) -> None:
    remember(run.store, run.recipe, scores)
    if scores.result.gate:
        run.note(scores.result.gate)


@step(version=2, sources=SOURCES, launches=True, measures=True, per_recipe=True, after=_remember)
def score(
    run: StepRun,
    recipe: Recipe,
    generator: Annotated[Manifest[GeneratorResult], From("distill", "fetch_released")],
    reference: Annotated[Manifest[ReferenceResult], From("reference_statistics")],
) -> ScoresResult:
    """Score the one-step generator on held-out seed ranges.

    Args:
        generator: The one-step generator.
        reference: Feature moments of the training set; it names the data, whose labels are drawn from.

    Returns:
        The generator's score: every range, mean and spread.
    """
    check_reference(recipe, reference.result)
    result = generator.result
    seeds, n, protocol = first_seeds(recipe), recipe.evaluation.images, recipe.evaluation.protocol
    target = recipe.targets.model_dump(mode="json", exclude=unsaid(recipe)) if recipe.targets else None
    _claim(run, _parameters(recipe, seeds, n) | {"protocol": protocol, "target": target}, generator, reference)
    measured = _measured(run, seeds, n, floor=False)
    first = row(
        recipe,
        measured.values,
        n=n,
        seeds=seeds,
        model="generator",
        label=f"generator, {result.method}" + (f", best of {len(seeds)} ranges" if protocol == "best" else ""),
        nfe=1,
        sampler="one step",
        checkpoint_sha256=result.weights.sha256,
        protocol=protocol,
    )
    return _result(recipe, reference, measured, first, result.licence, gate=target_gate(recipe, first))
