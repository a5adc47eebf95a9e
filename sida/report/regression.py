"""Is the generator's score worse than the last one of the same recipe? By more than chance explains, or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sida.manifests import Manifest, Regression, Score

# Two-sided 95% quantile of Student's t by degrees of freedom; 1.96 beyond.
_T95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    8: 2.306,
    10: 2.228,
    18: 2.101,
    60: 2.0,
    1000: 1.96,
}
_MORE_IS_BETTER = ("inception_score", "is", "precision", "recall", "density", "coverage")


def half_width(score: Score) -> float | None:
    """Half-width of the 95% interval of a score's mean over its seed ranges (Student's t); None for a single range."""
    freedom = len(score.values) - 1
    return quantile(freedom) * score.sd / math.sqrt(len(score.values)) if freedom >= 1 else None


def quantile(freedom: int) -> float:
    """Student's t at 97.5%, never below the true value: the next smaller tabulated degree of freedom counts."""
    return _T95[max(known for known in _T95 if known <= freedom)]


def difference_interval(a: Score, b: Score) -> float:
    """Half-width of the 95% interval of mean(a) - mean(b), pooled over the seed ranges; infinite for one range each."""
    freedom = len(a.values) + len(b.values) - 2
    if freedom < 1:
        return math.inf
    error = math.sqrt(a.sd**2 / len(a.values) + b.sd**2 / len(b.values))
    return quantile(freedom) * error


def judge(now: Sequence[Score], last: Manifest) -> Regression:
    """The generator's score now against that of ``last``; regressed means worse by more than the interval of the difference."""
    new = next(score for score in now if score.model == "generator")
    old = next(score for score in last.rows if score.model == "generator")
    half = difference_interval(new, old)
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
