"""Decide how scores stand: the teacher and the generator to their published numbers, and one score to another.

``sida.scoring.words`` puts these decisions into words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sida.manifests import Manifest, ReferenceResult, Regression, Score, ScoresResult
from sida.recipe import Recipe
from sida.scoring.detector_file import INCEPTION_SHA256
from sida.scoring.interval import difference_half_width, half_width

MORE_IS_BETTER = ("inception_score", "is", "precision", "recall", "density", "coverage")
ONE_RANGE = 0.02  # the share of a published score by which one range of 50,000 images varies with its seeds


def teacher_fault(recipe: Recipe, scores: ScoresResult, reference: ReferenceResult) -> str:
    """Return what is wrong with the teacher's score, with a diagnosis; empty when it lies near the published one.

    ``gate.teacher_at_most`` holds for ``evaluation.images``; with fewer, the limit grows by the smaller sample's bias.
    """
    score = scores.rows[0]
    added = _smaller_sample_bias(score.n, recipe.evaluation.images, _perfect_score(scores))
    limit = recipe.gate.teacher_at_most + added
    published = recipe.targets.teacher if recipe.targets else None
    lowest = None
    if published is not None and recipe.gate.teacher_at_most > published:
        # As far below as it may lie above: a teacher that beats its publication was measured against something else.
        lowest = 2 * published - recipe.gate.teacher_at_most + added - (score.interval or 0.0)
    if (lowest is None or score.mean >= lowest) and score.mean <= limit:
        return ""
    if score.mean > limit:
        fault = f"{score.metric} {score.mean:.3f} is above {limit:.3g} (gate.teacher_at_most"
        fault += f" {recipe.gate.teacher_at_most:g}, and {added:.3g} for n = {score.n:,})" if added else ")"
    else:
        fault = f"{score.metric} {score.mean:.3f} is too good: below {lowest:.3g}"
    if published is not None:
        fault += f", published is {published:g}"
    remedy = "; or set gate.on_failure: warn" if recipe.gate.on_failure == "stop" else ""
    return f"teacher gate: {fault}; {diagnosis(recipe, scores, reference)}{remedy}"


def _perfect_score(scores: ScoresResult) -> float | None:
    """Return a perfect model's score: that of real images (exact class shares lower it), at most the theory's."""
    real = [row.mean for row in scores.rows if row.model == "real"]
    return None if scores.sampling_bias is None else min([scores.sampling_bias, *real])


def _smaller_sample_bias(count: int, full: int, bias: float | None) -> float:
    """Return how much more ``count`` images score than ``full`` ones would: the bias scales as 1 / n."""
    return 0.0 if bias is None or count >= full else bias * (1 - count / full)


def diagnosis(recipe: Recipe, scores: ScoresResult, reference: ReferenceResult) -> str:
    """Name the first of detector, reference and preprocessing that may be wrong; the cheapest check comes first."""
    detector = recipe.evaluation.detector
    if detector.sha256 is not None and scores.detector_sha256 != detector.sha256:
        return f"the detector is not the recipe's (sha256 {scores.detector_sha256[:12]}, not {detector.sha256[:12]})"
    if detector.kind == "inception" and scores.detector_sha256 != INCEPTION_SHA256:
        return f"the detector is not the published Inception (sha256 {scores.detector_sha256[:12]}): take that one"
    real = next((row for row in scores.rows if row.model == "real"), None)
    if real is not None:
        expected = scores.sampling_bias or 0.0
        if real.mean > 3 * expected + 0.1 * recipe.gate.teacher_at_most:
            return (
                f"the detector is right; the reference is not: real images themselves score {real.mean:.3f} against it, "
                f"where at most about {expected:.3f} is due: it is of another data set, detector or preprocessing of the data"
            )
        right = f"detector and reference are right (real images score {real.mean:.3f}): look at"
        if recipe.teacher.address is None:
            return f"{right} the teacher that was trained: more teacher.train.images, a wider teacher.network"
        return (
            f"{right} the model's side, preprocessing: the sampler's settings, labels, the scale of its output, "
            f"and teacher.network"
        )
    source = "published" if reference.origin == "published" else "our own"
    pin = "" if recipe.evaluation.reference is None or recipe.evaluation.reference.sha256 else ", its sha256 not pinned"
    return (
        f"the detector is right; the reference ({source}{pin}) could not be checked without real images: check it, "
        f"then preprocessing"
    )


def target_of(recipe: Recipe) -> float | None:
    """Return the published score of the recipe's method, or the best of SiDA and SiD2A where only that is known.

    Targets are those of SiDA's paper: a recipe of Uni-Instruct has none.
    """
    if recipe.targets is None or recipe.method.name == "uni":
        return None
    return getattr(recipe.targets, "best" if is_best_of_two(recipe) else recipe.method.name)


def is_best_of_two(recipe: Recipe) -> bool:
    """Return whether the published score is the better one of SiDA and SiD2A: none is known for the method alone."""
    method = recipe.method.name
    return recipe.targets is not None and method in ("sida", "sid2a") and getattr(recipe.targets, method) is None


def versus_published(score: Score, published: float) -> Literal["better", "within", "worse"]:
    """Compare a score's 95% interval with the published number."""
    half = ONE_RANGE * published if score.interval is None or score.protocol == "best" else score.interval
    if score.reported + half < published:
        return "better"
    return "worse" if score.reported - half > published else "within"


@dataclass(frozen=True)
class Standing:
    """Standing of one score, of which less is better, to another."""

    kind: Literal["ahead", "level", "behind"]  # level: the difference lies within its interval
    difference: float
    half: float  # of the difference's 95% interval; infinite when neither score shows its spread


def versus(score: Score, other: Score) -> Standing:
    """Compare a score with another of the same metric and number of images."""
    half = difference_half_width(score.values, other.values)
    difference = score.mean - other.mean
    return Standing("ahead" if difference < -half else "level" if difference <= half else "behind", difference, half)


def comparison(score: Score, other: Score) -> Standing | None:
    """Compare two scores; None where they cannot be compared."""
    return versus(score, other) if (score.metric, score.n) == (other.metric, other.n) else None


def judge(scores: Sequence[Score], last: Manifest) -> Regression:
    """Compare the generator's score with that of ``last``. It regressed when it is worse by more than the interval."""
    new, old = (next(score for score in rows if score.model == "generator") for rows in (scores, last.rows))
    half = difference_half_width(new.values, old.values)
    worse = (old.mean - new.mean) if new.metric in MORE_IS_BETTER else (new.mean - old.mean)
    return Regression(
        metric=new.metric,
        before=old.mean,
        before_half_width=half_width(old.values),
        now=new.mean,
        now_half_width=half_width(new.values),
        worse_by=worse,
        half_width=half if math.isfinite(half) else None,
        regressed=worse > half,
        previous=last.digest,
    )
