"""How many images of each class a score is made of, in words: public scores differ by this rule alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

LABELS = "labels"  # the note of a score's manifest that says it
EXACT, UNIFORM, OTHER = "exact proportions of the training set", "uniform", "neither exact nor uniform, as if drawn"
UNKNOWN = "not known: the files have none"


def label_rule(counts: Sequence[int], histogram: Sequence[int] = ()) -> str:
    """Say by which rule images have their classes: ``counts`` images of each, ``histogram`` of the training set where it is known.

    >>> label_rule([5, 3, 2], [500, 300, 200])
    'exact proportions of the training set: 3 classes of 2 to 5 images'
    >>> label_rule([4, 3, 3], [500, 300, 200])
    'uniform: 3 classes of 3 to 4 images'
    """
    if not counts:
        return "none: unconditional"
    exact = _near(counts, histogram)
    even = max(counts) - min(counts) <= 1
    rule = f"{EXACT}, {UNIFORM}" if exact and even else EXACT if exact else UNIFORM if even else OTHER
    size = f"{min(counts):,}" + (f" to {max(counts):,}" if max(counts) > min(counts) else "")
    return f"{rule}: {len(counts):,} classes of {size} images"


def exact_counts(histogram: Sequence[int], count: int) -> list[int]:
    """Return how many of ``count`` images each class gets in the histogram's proportions: largest remainders, first classes first.

    >>> exact_counts([500, 300, 200], 9)
    [4, 3, 2]
    """
    total = sum(histogram)
    shares = [images * count / total for images in histogram]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda label: counts[label] - shares[label])
    for label in by_remainder[: count - sum(counts)]:
        counts[label] += 1
    return counts


def _near(counts: Sequence[int], histogram: Sequence[int]) -> bool:
    """Return whether every count is its class's share, rounded up or down."""
    if len(counts) != len(histogram) or not sum(histogram):
        return False
    n, total = sum(counts), sum(histogram)
    return all(abs(count * total - share * n) < total for count, share in zip(counts, histogram, strict=True))
