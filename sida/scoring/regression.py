"""Test for a regression: a generator's score worse than the last one of the same recipe by more than chance explains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sida.manifests import Manifest, Regression, Score
from sida.scoring.interval import difference_half_width, half_width

_MORE_IS_BETTER = ("inception_score", "is", "precision", "recall", "density", "coverage")


def judge(scores: Sequence[Score], last: Manifest) -> Regression:
    """Compare the generator's score with that of ``last``. It regressed when it is worse by more than the interval."""
    new, old = (next(score for score in rows if score.model == "generator") for rows in (scores, last.rows))
    half = difference_half_width(new.values, old.values)
    worse = (old.mean - new.mean) if new.metric in _MORE_IS_BETTER else (new.mean - old.mean)
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
