"""What a score is held to: the teacher to its published number before anything is distilled, the generator to its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sida.manifests import ReferenceResult, Score, ScoresResult
from sida.recipe import Method, Recipe, Targets
from sida.scoring.interval import difference_half_width
from sida.scoring.torchscript_facts import INCEPTION_SHA256

ONE_RANGE = 0.02  # of the published score: how far one range of 50,000 images strays by its seeds

TO_ITS_TEACHER = {"ahead": "surpasses", "level": "is level with", "behind": "is behind"}


@dataclass(frozen=True)
class TeacherGate:
    """Whether distilling may begin; the reason, with a diagnosis, when it may not."""

    passed: bool
    text: str


def teacher_gate(recipe: Recipe, scores: ScoresResult, reference: ReferenceResult) -> TeacherGate:
    """The teacher's score lies within the recipe's tolerance of the published one, at the number of images that was used.

    ``gate.teacher_at_most`` is for ``evaluation.images``; with fewer the limit grows by what the smaller sample adds.
    """
    score = scores.rows[0]
    added = _added_by_fewer(score.n, recipe.evaluation.images, _due(scores))
    limit = recipe.gate.teacher_at_most + added
    published = recipe.targets.teacher if recipe.targets else None
    lowest = None
    if published is not None and recipe.gate.teacher_at_most > published:
        # As far below as it may lie above: a teacher that beats its publication was compared with something else.
        lowest = 2 * published - recipe.gate.teacher_at_most + added - (score.interval or 0.0)
    if (lowest is None or score.mean >= lowest) and score.mean <= limit:
        return TeacherGate(True, f"teacher gate passed: {score.metric} {score.mean:.3f}, at most {limit:.3g}")
    if score.mean > limit:
        found = f"{score.metric} {score.mean:.3f} is above {limit:.3g} (gate.teacher_at_most"
        found += f" {recipe.gate.teacher_at_most:g}, and {added:.3g} for n = {score.n:,})" if added else ")"
    else:
        found = f"{score.metric} {score.mean:.3f} is too good: below {lowest:.3g}"
    if published is not None:
        found += f", published is {published:g}"
    remedy = "; or set gate.on_failure: warn" if recipe.gate.on_failure == "stop" else ""
    return TeacherGate(False, f"teacher gate: {found}; {diagnosis(recipe, scores, reference)}{remedy}")


def _due(scores: ScoresResult) -> float | None:
    """What a perfect model would score with as many images: as real ones did (exact class shares lower it), at most the theory."""
    real = [row.mean for row in scores.rows if row.model == "real"]
    return None if scores.sampling_bias is None else min([scores.sampling_bias, *real])


def _added_by_fewer(count: int, full: int, bias: float | None) -> float:
    """What ``count`` images score more than ``full`` ones would: the bias is as 1 / n."""
    return 0.0 if bias is None or count >= full else bias * (1 - count / full)


def diagnosis(recipe: Recipe, scores: ScoresResult, reference: ReferenceResult) -> str:
    """The first of detector, reference, preprocessing that is not as it must be; each is cheaper to check than the next."""
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
    """The published score of what this recipe makes; the best of SiDA and SiD2A where that of its method is not known."""
    if recipe.targets is None:
        return None
    return getattr(recipe.targets, "best" if _is_of_the_best(recipe.targets, recipe.method) else recipe.method.name)


def target_words(recipe: Recipe) -> str:
    """What the published score is of, where that is not known to be the recipe's own method in its precision; else empty."""
    found = ""
    if recipe.targets is not None and _is_of_the_best(recipe.targets, recipe.method):
        found += f", the best of SiDA and SiD2A; none is known for {recipe.method.title} alone"
    if recipe.targets is not None and recipe.in_another_precision:
        found += f"; published in {recipe.targets.precision}, this was {precision_words(recipe)}"
    return found


def precision_words(recipe: Recipe) -> str:
    """``distilled and scored in tf32``, or both precisions where they differ."""
    distilled, scored = recipe.method.precision, recipe.score_precision
    return f"distilled {'and' if distilled == scored else f'in {distilled} and'} scored in {scored}"


def _is_of_the_best(targets: Targets, method: Method) -> bool:
    """Whether the published score is that of SiDA or SiD2A, whichever was better: none is known for the method alone."""
    return method.name != "sid" and getattr(targets, method.name) is None


def standing(score: Score, published: float) -> str:
    """``better``, ``within`` or ``worse``: the published number against the 95% interval of ours."""
    half = ONE_RANGE * published if score.interval is None or score.protocol == "best" else score.interval
    if score.reported + half < published:
        return "better"
    return "worse" if score.reported - half > published else "within"


def target_gate(recipe: Recipe, score: Score) -> str | None:
    """The generator against its publication, in words; None where nothing was published."""
    published = target_of(recipe)
    if published is None or recipe.targets is None or recipe.targets.metric != score.metric:
        return None
    words = {"better": "better than", "within": "within the interval of", "worse": "worse than"}
    if score.protocol == "best":
        spread = f"the best of {len(score.values)} ranges, as publications report it; not a mean"
    elif score.interval is None:
        spread = f"one range, no interval: taken as equal within {ONE_RANGE:.0%}"
    else:
        spread = f"+- {score.interval:.3f} (95%) over {len(score.values)} ranges"
    return (
        f"{score.metric} {score.reported:.3f} ({spread}) is {words[standing(score, published)]} the published "
        f"{published:g} ({recipe.targets.source}){target_words(recipe)}"
    )


def versus(one: Score, other: Score) -> tuple[Literal["ahead", "level", "behind"], float, float]:
    """How a score, of which less is better, stands to another; their difference, and half of its 95% interval."""
    half = difference_half_width(one.values, other.values)
    difference = one.mean - other.mean
    return "ahead" if difference < -half else "level" if difference <= half else "behind", difference, half


def against_teacher(recipe: Recipe, generator: Score, teacher: Score) -> str:
    """The generator against its teacher, in words: which sampler, how many evaluations, how guided."""
    found, margin, half = versus(generator, teacher)
    guidance = recipe.teacher.sampler.guidance
    guided = "without guidance" if guidance == 1 else f"guidance {guidance:g}"
    return (
        f"the one-step generator {TO_ITS_TEACHER[found]} its teacher ({teacher.sampler}, {teacher.nfe} evaluations, {guided}): "
        f"{generator.metric} {generator.mean:.3f} against {teacher.mean:.3f}, difference {margin:+.3f} +- {half:.3f} (95%)"
    )
