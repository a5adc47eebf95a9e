"""Whether a distillation has turned to noise, from the curve of its selections alone.

Either its score is ``TIMES`` its best one and rises or stays there, or it is no nearer to the data than images that are all alike:
the Frechet distance of such, with the data's mean, is the trace of the data's covariance (``blank``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sida.recipe import Recipe

NOISE = "noise"  # the note of a generator's manifest that says it
TIMES = 5.0
ROW = 3  # selections in a row
LEAST = 0.01  # of blank: below, a score is a good one however much better another was

Points = Sequence[dict[str, float]]


@dataclass(frozen=True)
class Noise:
    """A run's state after its last selection: noise, first seen at ``since`` images."""

    since: int
    score: float
    best: float
    best_seen: int
    blank: float


def noise_in(points: Points, blank: float, warm_up: int) -> Noise | None:
    """Return whether a curve ends in noise; ``warm_up``: images beyond which the generator is trained. None: it does not.

    A run is out of it again when its score is near its best one, and nearer to the data than ``blank``.
    """
    scores = [(int(point["images"]), point["score"]) for point in points if "score" in point]
    since = None
    for number in range(1, len(scores) + 1):
        seen, score = scores[number - 1]
        if since is None and _begins(scores[:number], blank, warm_up):
            since = seen
        elif since is not None and score < min(blank, TIMES * _floor(scores[:number], blank)):
            since = None
    if since is None:
        return None
    best_seen, best = min(scores, key=lambda at: at[1])
    return Noise(since, scores[-1][1], best, best_seen, blank)


def _begins(scores: list[tuple[int, float]], blank: float, warm_up: int) -> bool:
    """Return whether the last selections are noise: three rises to a multiple of the best, or three in a row that do not fall."""
    values, limit = [score for _, score in scores], TIMES * _floor(scores, blank)
    last = values[-ROW - 1 :]
    risen = len(last) > ROW and all(a < b for a, b in pairwise(last))
    if risen and last[-1] >= limit and last[-2] >= limit / 2:  # not by one odd selection
        return True
    row = values[-ROW:]
    if len(row) < ROW or all(a > b for a, b in pairwise(row)):  # it recovers, or has just begun to learn
        return False
    trained = scores[-ROW][0] > warm_up
    return min(row) >= limit or (trained and min(row) >= blank)


def _floor(scores: list[tuple[int, float]], blank: float) -> float:
    return max(min(score for _, score in scores), LEAST * blank / TIMES)


def in_words(noise: Noise, recipe: Recipe, points: Points) -> str:
    """Return what was seen and which fields to change, those first that helped others (public reports on SiD's alpha)."""
    metric, method = f"{recipe.evaluation.metric} (n = {recipe.evaluation.selection_images:,})", recipe.method
    found = f"its best one {noise.best:.4g} at {noise.best_seen:,} images"
    if noise.score >= noise.blank:
        found += f"; images that are all alike would score {noise.blank:.4g}"
    evidence = [f"{name} {value:.4g}" for name, value in _evidence(points)]
    signs = f"; {', '.join(evidence)}" if evidence else ""
    rates = f"method.generator_rate ({method.generator_rate:g}) and method.fake_score_rate ({method.fake_score_rate:g})"
    return (
        f"turned to noise at {noise.since:,} images: selection score {metric} {noise.score:.4g}, {found}{signs}. Lower "
        f"method.alpha first (it is {method.alpha:g}; 0.5 to 1 helped where 1.2 gave noise), then {rates}"
    )


def _evidence(points: Points) -> list[tuple[str, float]]:
    """Return the newest values of what else tells of it, those that the method has."""
    newest = {name: value for point in points for name, value in point.items()}
    named = (("gradient_theta", "generator's gradient norm"), ("gradient_psi", "fake score's"))
    found = [(text, newest[name]) for name, text in named if name in newest]
    if "D_real" in newest and "D_fake" in newest:
        found.append(("discriminator's lead", newest["D_real"] - newest["D_fake"]))
    return found
