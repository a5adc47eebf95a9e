"""Is the generator's score worse than the last one of the same recipe? By more than chance explains, or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sida.manifests import Manifest, Regression, Score
from sida.scoring import interval

_MORE_IS_BETTER = ("inception_score", "is", "precision", "recall", "density", "coverage")


def half_width(score: Score) -> float | None:
    """Half-width of the 95% interval of a score's mean over its seed ranges; None for a single range."""
    return interval.half_width(score.values)


def judge(now: Sequence[Score], last: Manifest) -> Regression:
    """The generator's score now against that of ``last``; regressed means worse by more than the interval of the difference."""
    new = next(score for score in now if score.model == "generator")
    old = next(score for score in last.rows if score.model == "generator")
    half = interval.difference_half_width(new.values, old.values)
    worse = (old.mean - new.mean) if new.metric in _MORE_IS_BETTER else (new.mean - old.mean)
    return Regression(
        metric=new.metric,
        before=old.mean,
        before_half_width=half_width(old),
        now=new.mean,
        now_half_width=half_width(new),
        worse_by=worse,
        half_width=half if math.isfinite(half) else None,
        regressed=worse > half,
        previous=last.digest,
    )


def in_words(found: Regression) -> str:
    """One sentence for reader, page and webhook."""
    before, now = _with_interval(found.before, found.before_half_width), _with_interval(found.now, found.now_half_width)
    values = f"{found.metric} {now} now, {before} the last time"
    if found.half_width is None:
        return f"Whether the score changed cannot be told from a single seed range: {values}."
    half = f"{found.half_width:.3f} (95%)"
    if found.regressed:
        return (
            f"REGRESSED: worse than the last score of this recipe by {found.worse_by:.3f}, more than {half}: {values}."
        )
    return f"No regression: the last score of this recipe differs by {found.now - found.before:+.3f}, interval {half}: {values}."


def _with_interval(mean: float, half: float | None) -> str:
    return f"{mean:.3f}" if half is None else f"{mean:.3f} +- {half:.3f}"
