"""The steps score_teacher (a gate before distilling) and score (the generator)."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from sida import progress
from sida.errors import UserError
from sida.launch.job import run_job
from sida.manifests import Manifest, ReferenceResult, Score, ScoresResult, read_manifest
from sida.recipe import Recipe
from sida.scoring.gates import teacher_gate
from sida.scoring.interval import half_width
from sida.scoring.series import remember
from sida.scoring.words import target_gate
from sida.settings import settings
from sida.steps import Context, Published, carried, step
from sida.stores import open_store
from sida.stores.base import ObjectRef

SOURCES = (
    "sida/scoring",
    "sida/numerics",
    "sida/data/shards.py",
    "sida/training/processes.py",
    "sida/training/meeting.py",
)
FEW = 10  # images per feature, below which the sample's size shows in the score


def first_seeds(recipe: Recipe, ranges: int | None = None) -> list[int]:
    """Where each reported seed range begins."""
    evaluation = recipe.evaluation
    return [evaluation.first_seed + i * evaluation.images for i in range(ranges or evaluation.ranges)]


def row(recipe: Recipe, values: list[float], *, n: int, seeds: list[int], metric: str = "", **fields: Any) -> Score:
    """One row of the table from the values of its seed ranges."""
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
    """``kid``, or ``kid_digits`` where the features are not Inception's."""
    own = recipe.evaluation.metric
    return metric + own.removeprefix("fd") if own.startswith("fd_") else metric


def check_reference(recipe: Recipe, reference: Manifest) -> None:
    """Refuse a reference that was made with another detector, or for another metric."""
    made: ReferenceResult = reference.result  # type: ignore[assignment]
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


def _inputs(recipe: Recipe, model: Manifest, reference: str) -> dict[str, Manifest]:
    """What a score rests on; the data, whose labels are drawn from, are those that the reference was computed of."""
    against = read_manifest(reference, "reference")
    check_reference(recipe, against)
    return {"model": model, "dataset": carried(against, "dataset"), "reference": against}


def _measured(
    recipe: Recipe,
    context: Context,
    inputs: dict[str, Manifest],
    seeds: list[int],
    n: int,
    *,
    floor: bool,
    guide: ObjectRef | None = None,
) -> dict[str, Any]:
    spec = {
        "recipe": recipe.model_dump(mode="json"),
        "inputs": {name: manifest.to_json().decode() for name, manifest in inputs.items()},
        "first_seeds": seeds,
        "count": n,
        "extra_metrics": list(recipe.evaluation.extra_metrics),
        "floor": floor,
    }
    if guide is not None:
        spec["guide"] = [guide.name, guide.size, guide.sha256]
    result = run_job(context, "score", spec, recipe.execution)
    context.notes["images_per_second"] = round(result["images_per_second"], 1)
    context.notes["sampling_batch"] = result["batch"]
    features = recipe.evaluation.detector.features
    if n < FEW * features:
        progress.note(
            context.step.name,
            f"{n:,} images are few for {features:,} features, and scores fall with their number: {_size_effect(result)}; "
            f"compare it only with scores of as many images",
        )
    return result


def _size_effect(measured: dict[str, Any]) -> str:
    """What the sample's size does to the score: measured on real images where they are there, else the theory and its terms."""
    bias = f"{measured['sampling_bias']:.3g}"
    theory = f"a perfect model would score {bias} were the features Gaussian and the labels drawn at random"
    if floor := measured.get("floor"):
        return f"as many real images score {statistics.fmean(floor):.3g} ({theory})"
    return f"{theory} (exact class shares, as here, make it less)"


def _result(
    recipe: Recipe, inputs: dict[str, Manifest], measured: dict[str, Any], first: Score, licence: str, **fields: Any
) -> ScoresResult:
    """The model's row, the real images' where they were measured, and further metrics of the same images."""
    seeds, n = list(first.first_seeds), first.n
    rows = [first]
    if floor := measured.get("floor"):
        rows.append(
            row(
                recipe,
                floor,
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
        for name, values in measured["further"].items()
    ]
    reference: ReferenceResult = inputs["reference"].result  # type: ignore[assignment]
    return ScoresResult(
        rows=tuple(rows),
        detector_sha256=reference.detector_sha256,
        reference_digest=inputs["reference"].digest,
        licence=licence,
        sampling_bias=measured["sampling_bias"],
        further=tuple(further),
        precision=None if recipe.score_precision == "float32" else recipe.score_precision,
        **fields,
    )


def _parameters(recipe: Recipe, seeds: list[int], n: int) -> dict[str, Any]:
    evaluation = recipe.evaluation
    precision = {} if recipe.score_precision == "float32" else {"precision": recipe.score_precision}
    return {"images": n, "first_seeds": seeds, "extra_metrics": list(evaluation.extra_metrics), **precision}


def unsaid(recipe: Recipe) -> set[str]:
    """Fields of the targets of which the verdict says nothing; without them the key is what it was before there were any."""
    unknown = {name for name in ("sida", "sid2a") if getattr(recipe.targets, name) is None}
    return unknown if recipe.in_another_precision else unknown | {"precision"}


def _guide_file(recipe: Recipe) -> tuple[Path, str] | None:
    """The guide's file and its sha256; None for a teacher without guidance."""
    if recipe.teacher.sampler.guidance == 1 or recipe.teacher.guide is None:
        return None
    from sida.foreign.fetch import fetch_file

    return fetch_file(recipe.teacher.guide.address, "guide", recipe.teacher.guide.sha256, step="score_teacher")


def _guide_key(guide: tuple[Path, str] | None) -> dict[str, str]:
    return {} if guide is None else {"guide": guide[1]}


def _stored_guide(context: Context, recipe: Recipe, path: Path) -> ObjectRef:
    """The guide's weights as safetensors, converted without running anything in the file."""
    from sida.scoring.adopt import as_safetensors

    assert recipe.teacher.guide is not None
    with tempfile.TemporaryDirectory() as folder:
        weights = as_safetensors(path, recipe.teacher.guide.network.model_dump(mode="json"), Path(folder))
        return context.put(weights, "guide.safetensors")


@step("score_teacher", version=2, sources=SOURCES)
def score_teacher(
    context_of: Any,
    *,
    recipe: Recipe,
    teacher: str,
    reference: str,
    attempt: str = "",
    repeat: str = "",
) -> Published:
    """Score the teacher with its own sampler, and stop the run if it is not as good as was published."""
    inputs = _inputs(recipe, read_manifest(teacher, "teacher"), reference)
    sampler = recipe.teacher.sampler
    seeds = first_seeds(recipe, recipe.evaluation.teacher_ranges)
    n = recipe.gate.teacher_images or recipe.evaluation.images
    made: Any = inputs["model"].result

    guide = _guide_file(recipe)

    def produce(context: Context) -> ScoresResult:
        stored = guide and _stored_guide(context, recipe, guide[0])
        measured = _measured(recipe, context, inputs, seeds, n, floor=True, guide=stored)
        guided = "" if sampler.guidance == 1 else f", guidance {sampler.guidance:g}"
        first = row(
            recipe,
            measured["values"],
            n=n,
            seeds=seeds,
            model="teacher",
            label=f"teacher, Heun {sampler.steps} steps{guided}",
            nfe=sampler.nfe,
            sampler=f"Heun, {sampler.steps} steps{guided}",
            checkpoint_sha256=made.weights.sha256,
        )
        return _result(recipe, inputs, measured, first, made.licence, guide=stored)

    published = context_of(
        parameters=_parameters(recipe, seeds, n) | {"sampler": sampler.model_dump(mode="json"), **_guide_key(guide)},
        inputs=inputs,
        produce=produce,
        attempt=attempt,
        repeat=repeat,
    )
    gate = teacher_gate(recipe, published.manifest, inputs["reference"])
    if not gate.passed:
        if recipe.gate.on_failure == "stop":
            raise UserError(gate.text)
        progress.note("score_teacher", gate.text)
    return published


@step("score", version=2, sources=SOURCES)
def score(
    context_of: Any,
    *,
    recipe: Recipe,
    generator: str,
    reference: str,
    attempt: str = "",
    repeat: str = "",
) -> Published:
    """Score the one-step generator on held-out seed ranges, and say how it stands to the published number."""
    inputs = _inputs(recipe, read_manifest(generator, "generator"), reference)
    made: Any = inputs["model"].result
    seeds, n, protocol = first_seeds(recipe), recipe.evaluation.images, recipe.evaluation.protocol

    def produce(context: Context) -> ScoresResult:
        measured = _measured(recipe, context, inputs, seeds, n, floor=False)
        first = row(
            recipe,
            measured["values"],
            n=n,
            seeds=seeds,
            model="generator",
            label=f"generator, {made.method}" + (f", best of {len(seeds)} ranges" if protocol == "best" else ""),
            nfe=1,
            sampler="one step",
            checkpoint_sha256=made.weights.sha256,
            protocol=protocol,
        )
        return _result(recipe, inputs, measured, first, made.licence, gate=target_gate(recipe, first))

    target = recipe.targets.model_dump(mode="json", exclude=unsaid(recipe)) if recipe.targets else None
    parameters = _parameters(recipe, seeds, n) | {"protocol": protocol, "target": target}
    published: Published = context_of(
        parameters=parameters, inputs=inputs, produce=produce, attempt=attempt, repeat=repeat
    )
    remember(open_store(settings().store), recipe, published.manifest)
    result: ScoresResult = published.manifest.result  # type: ignore[assignment]
    if result.gate:
        progress.note("score", result.gate)
    return published
