"""A score as a result: rows, intervals and notes of what was measured, and what was measured of a result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from sida.errors import UserError
from sida.launch.spec import ScoreOutcome
from sida.manifests import Manifest, ReferenceResult, Score, ScoresResult, SecondScored
from sida.recipe import Recipe
from sida.scoring.interval import half_width
from sida.scoring.words import steps_taken, target_gate
from sida.steps import StepRun
from sida.stores.base import ObjectRef

FEW = 10  # images per feature, below which the sample's size shows in the score


def check_reference(recipe: Recipe, reference: ReferenceResult) -> None:
    """Refuse a reference that was made with another detector, or for another metric."""
    detector = recipe.evaluation.detector
    if detector.sha256 is not None and reference.detector_sha256 != detector.sha256:
        raise UserError(
            f"the reference was made with detector {reference.detector_sha256[:12]}, the recipe's is {detector.sha256[:12]}: "
            f"run reference_statistics with this recipe"
        )
    if (reference.metric, reference.features) != (recipe.evaluation.metric, detector.features):
        raise UserError(
            f"the reference is for {reference.metric} with {reference.features} features, the recipe's metric is "
            f"{recipe.evaluation.metric} with {detector.features}: run reference_statistics with this recipe"
        )
    made, wanted = reference.second, recipe.evaluation.second
    theirs = made and (made.metric, made.features, made.detector_sha256)
    pinned = (wanted.detector.sha256 or (made and made.detector_sha256)) if wanted else None
    if theirs != (wanted and (wanted.metric, wanted.detector.features, pinned)):
        raise UserError(
            f"the reference has {made.metric if made else 'nothing'} as its second metric, of detector "
            f"{made.detector_sha256[:12] if made else '-'}, the recipe {wanted.metric if wanted else 'none'}: run "
            f"reference_statistics with this recipe"
        )


def note_if_few(run: StepRun, n: int, outcome: ScoreOutcome) -> None:
    """Tell the user where so few images decide a part of the score."""
    features = run.recipe.evaluation.detector.features
    if n < FEW * features:
        run.note(
            f"{n:,} images are few for {features:,} features, and scores fall with their number: {_size_effect(outcome)}; "
            f"compare it only with scores of as many images",
        )
    second = run.recipe.evaluation.second
    if second is not None and outcome.second_bias is not None and n < FEW * second.detector.features:
        run.note(
            f"{n:,} images are few for the {second.detector.features:,} features of {second.metric}, too: "
            f"{_theory(outcome.second_bias)}"
        )


def _size_effect(measured: ScoreOutcome) -> str:
    """Return the sample size's effect on the score: measured on real images if they are there, else the theory and its terms."""
    theory = _theory(measured.sampling_bias)
    if measured.floor:
        return f"as many real images score {statistics.fmean(measured.floor):.3g} ({theory})"
    return f"{theory} (exact class shares, as here, make it less)"


def _theory(bias: float) -> str:
    return f"a perfect model would score {bias:.3g} were the features Gaussian and the labels drawn at random"


def scores_result(
    recipe: Recipe,
    reference: Manifest[ReferenceResult],
    measured: ScoreOutcome,
    *,
    n: int,
    seeds: list[int],
    licence: str,
    protocol: Literal["mean", "best"] = "mean",
    precision: str = "float32",
    guide: ObjectRef | None = None,
    **model: Any,
) -> ScoresResult:
    """Return the model's row, the real images' if they were measured, further metrics of the same images, and the steps before.

    ``model``: the row's model, label, nfe, sampler and checkpoint_sha256. Further metrics of features that are not Inception's
    are named after them too: ``kid_digits``; the second metric has its own name.
    """
    metric, suffix, other = recipe.evaluation.metric, _suffix(recipe), reference.result.second

    def row(values: Sequence[float], metric: str = metric, **fields: Any) -> Score:
        return Score(
            metric=metric,
            values=tuple(values),
            first_seeds=tuple(seeds),
            n=n,
            mean=statistics.fmean(values),
            sd=statistics.stdev(values) if len(values) > 1 else 0.0,
            interval=half_width(values),
            **fields,
        )

    rows = [row(measured.values, protocol=protocol, **model)]
    if measured.floor:
        about: dict[str, Any] = {"label": "real resamples", "nfe": None, "sampler": "with replacement, class by class"}
        rows.append(row(measured.floor, model="real", checkpoint_sha256=None, **about))
    further = [row(values, name + suffix, **model) for name, values in measured.further.items()]
    second = None
    if other is not None and measured.second_bias is not None:
        further.append(row(measured.second, other.metric, protocol=protocol, **model))
        second = SecondScored(
            metric=other.metric, detector_sha256=other.detector_sha256, sampling_bias=measured.second_bias
        )
    return ScoresResult(
        rows=tuple(rows),
        detector_sha256=reference.result.detector_sha256,
        reference_digest=reference.digest,
        licence=licence,
        gate=target_gate(recipe, rows[0]) if rows[0].model == "generator" else None,
        sampling_bias=measured.sampling_bias,
        further=tuple(further),
        by_steps=tuple(
            row(
                values,
                **model | {"label": f"{model['label']}, after step {step}", "nfe": step, "sampler": steps_taken(step)},
            )
            for step, values in enumerate(measured.by_steps, 1)
        ),
        guide=guide,
        precision=None if precision == "float32" else precision,
        second=second,
    )


def _suffix(recipe: Recipe) -> str:
    """Return what names of further metrics end with: that of the features, where they are not Inception's."""
    metric = recipe.evaluation.metric
    return metric.removeprefix("fd") if metric.startswith("fd_") else ""


def measured_in(recipe: Recipe, result: ScoresResult, *, floor: bool = False) -> ScoreOutcome:
    """Return what was measured for a result, from the result itself; ``floor``: real images too, where they are in it."""
    suffix = _suffix(recipe)
    real = [row.values for row in result.rows[1:] if floor and row.model == "real"]
    others = result.second_rows
    return ScoreOutcome(
        values=result.rows[0].values,
        further={row.metric.removesuffix(suffix): row.values for row in result.further if row not in others},
        second=others[0].values if others else (),
        second_bias=result.second.sampling_bias if result.second else None,
        by_steps=tuple(row.values for row in result.by_steps),
        floor=real[0] if real else (),
        sampling_bias=0.0 if result.sampling_bias is None else result.sampling_bias,
        images_per_second=0.0,
        batch=1,
    )


def further_metrics(recipe: Recipe) -> dict[str, Any]:
    """Return what a score's key says of the metrics beside the first; no second one leaves it as it was before there were any."""
    second = recipe.evaluation.second
    return {"extra_metrics": list(recipe.evaluation.extra_metrics)} | ({"second": second.metric} if second else {})
