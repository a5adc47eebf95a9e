"""The steps score_teacher (a gate before distilling) and score (the generator)."""

from __future__ import annotations

import statistics
from typing import Any

from sida import progress
from sida.errors import UserError
from sida.launch.job import run_job
from sida.manifests import Manifest, Score, ScoresResult, read_manifest
from sida.recipe import Recipe
from sida.scoring.series import remember
from sida.settings import settings
from sida.steps import Context, Published, step
from sida.stores import open_store

_SOURCES = ("sida/scoring", "sida/numerics", "sida/data/shards.py", "sida/training/processes.py")


def first_seeds(recipe: Recipe) -> list[int]:
    """Where each reported seed range begins."""
    evaluation = recipe.evaluation
    return [evaluation.first_seed + i * evaluation.images for i in range(evaluation.ranges)]


def row(recipe: Recipe, values: list[float], **fields: Any) -> Score:
    """One row of the table from the values of its seed ranges."""
    return Score(
        metric=recipe.evaluation.metric,
        values=tuple(values),
        first_seeds=tuple(first_seeds(recipe)),
        n=recipe.evaluation.images,
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else 0.0,
        **fields,
    )


def _measured(recipe: Recipe, context: Context, inputs: dict[str, Manifest]) -> list[float]:
    spec = {
        "recipe": recipe.model_dump(mode="json"),
        "inputs": {name: manifest.to_json().decode() for name, manifest in inputs.items()},
        "first_seeds": first_seeds(recipe),
        "count": recipe.evaluation.images,
    }
    result = run_job(context, "score", spec, recipe.execution)
    context.notes["images_per_second"] = round(result["images_per_second"], 1)
    return result["values"]


def _parameters(recipe: Recipe) -> dict[str, Any]:
    evaluation = recipe.evaluation
    return {"images": evaluation.images, "first_seeds": first_seeds(recipe)}


@step("score_teacher", version=1, sources=_SOURCES)
def score_teacher(
    context_of: Any,
    *,
    recipe: Recipe,
    teacher: str,
    dataset: str,
    reference: str,
    attempt: str = "",
    repeat: str = "",
) -> Published:
    """Score the teacher with its own sampler, and stop the run if it is not as good as the recipe says."""
    inputs = {
        "model": read_manifest(teacher, "teacher"),
        "dataset": read_manifest(dataset, "dataset"),
        "reference": read_manifest(reference, "reference"),
    }
    sampler = recipe.teacher.sampler

    def produce(context: Context) -> ScoresResult:
        values = _measured(recipe, context, inputs)
        floor = _floor(recipe, context, inputs)
        rows = (
            row(
                recipe,
                values,
                model="teacher",
                label=f"teacher, Heun {sampler.steps} steps",
                nfe=sampler.nfe,
                sampler=f"Heun, {sampler.steps} steps",
                checkpoint_sha256=inputs["model"].result.weights.sha256,  # type: ignore[union-attr]
            ),
            row(
                recipe,
                floor,
                model="real",
                label="real resamples",
                nfe=None,
                sampler="with replacement, class by class",
                checkpoint_sha256=None,
            ),
        )
        return ScoresResult(
            rows=rows,
            detector_sha256=inputs["reference"].result.detector_sha256,  # type: ignore[union-attr]
            reference_digest=inputs["reference"].digest,
            licence=recipe.teacher.licence,
        )

    published = context_of(
        parameters=_parameters(recipe) | {"sampler": sampler.model_dump(mode="json")},
        inputs=inputs,
        produce=produce,
        attempt=attempt,
        repeat=repeat,
    )
    _gate(recipe, published)
    return published


def _gate(recipe: Recipe, published: Published) -> None:
    """Refuse to spend compute on a teacher that does not reach its score."""
    score = published.manifest.rows[0]
    limit = recipe.gate.teacher_at_most
    if score.mean <= limit:
        return
    message = (
        f"teacher gate: {score.metric} {score.mean:.3f} is above {limit:g} (gate.teacher_at_most): check, in this order, "
        f"detector, reference and preprocessing, or set gate.on_failure: warn"
    )
    if recipe.gate.on_failure == "stop":
        raise UserError(message)
    progress.note("score_teacher", message)


def _floor(recipe: Recipe, context: Context, inputs: dict[str, Manifest]) -> list[float]:
    """Scores of real images drawn anew: what a perfect generator would get at this n."""
    import torch

    from sida.data.shards import Shards
    from sida.numerics.frechet import Moments, frechet_distance
    from sida.scoring.detector import load_detector
    from sida.scoring.measure import real_resamples
    from sida.scoring.protocol import range_labels
    from sida.scoring.reference import load_moments
    from sida.stores.base import fetch_object

    reference: Any = inputs["reference"].result
    dataset: Any = inputs["dataset"].result
    shards = Shards(context.store, dataset)
    detector = load_detector(fetch_object(context.store, reference.detector))
    images, labels = shards.read(torch.arange(len(shards)))
    features = detector(images)
    real = load_moments(context.store, reference)
    values = []
    for first_seed in first_seeds(recipe):
        wanted = range_labels(dataset.histogram, recipe.evaluation.images, first_seed)
        moments = Moments(reference.features)
        moments.add(real_resamples(features, labels, wanted, first_seed))
        values.append(frechet_distance(*moments.mean_cov(), *real.mean_cov()))
    return values


@step("score", version=1, sources=_SOURCES)
def score(
    context_of: Any,
    *,
    recipe: Recipe,
    generator: str,
    dataset: str,
    reference: str,
    attempt: str = "",
    repeat: str = "",
) -> Published:
    """Score the one-step generator on held-out seed ranges."""
    inputs = {
        "model": read_manifest(generator, "generator"),
        "dataset": read_manifest(dataset, "dataset"),
        "reference": read_manifest(reference, "reference"),
    }
    made: Any = inputs["model"].result

    def produce(context: Context) -> ScoresResult:
        values = _measured(recipe, context, inputs)
        return ScoresResult(
            rows=(
                row(
                    recipe,
                    values,
                    model="generator",
                    label=f"generator, {made.method}",
                    nfe=1,
                    sampler="one step",
                    checkpoint_sha256=made.weights.sha256,
                ),
            ),
            detector_sha256=inputs["reference"].result.detector_sha256,  # type: ignore[union-attr]
            reference_digest=inputs["reference"].digest,
            licence=made.licence,
        )

    published: Published = context_of(
        parameters=_parameters(recipe), inputs=inputs, produce=produce, attempt=attempt, repeat=repeat
    )
    remember(open_store(settings().store), recipe, published.manifest)
    return published
