"""The rule by which a score's images have their classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sida.scoring.label_rule import exact_counts, label_rule
from sida.scoring.protocol import range_labels


@pytest.mark.parametrize("seed", range(5))
def test_exact_counts_are_those_of_the_labels_that_scores_deal_and_sum_to_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    histogram = generator.integers(0, 1300, 100).tolist()
    count = int(generator.integers(1, 50_000))
    counts = exact_counts(histogram, count)
    assert sum(counts) == count
    assert torch.bincount(range_labels(histogram, count, 0), minlength=100).tolist() == counts
    # What earlier versions dealt, by torch: scores keep their bits.
    shares = torch.tensor(histogram, dtype=torch.float64) * count / sum(histogram)
    before = shares.floor().to(torch.int64)
    before[torch.argsort(shares - before, descending=True, stable=True)[: count - int(before.sum())]] += 1
    assert before.tolist() == counts


@pytest.mark.parametrize(
    ("counts", "histogram", "rule"),
    [
        ([], [], "none: unconditional"),
        ([5, 3, 2], [500, 300, 200], "exact proportions of the training set: 3 classes of 2 to 5 images"),
        ([4, 3, 3], [500, 300, 200], "uniform: 3 classes of 3 to 4 images"),
        ([4, 4], [10, 10], "exact proportions of the training set, uniform: 2 classes of 4 images"),
        ([7, 1, 2], [500, 300, 200], "neither exact nor uniform, as if drawn: 3 classes of 1 to 7 images"),
        ([4, 4], [], "uniform: 2 classes of 4 images"),
    ],
)
def test_each_rule_has_its_name(counts: list[int], histogram: list[int], rule: str) -> None:
    assert label_rule(counts, histogram) == rule


def test_labels_drawn_at_random_are_called_neither() -> None:
    drawn = np.bincount(np.random.default_rng(0).integers(0, 10, 50_000), minlength=10).tolist()
    assert label_rule(drawn, [5000] * 10).startswith("neither exact nor uniform")
