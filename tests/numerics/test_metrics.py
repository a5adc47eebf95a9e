"""Inception Score, KID, precision and recall, augmentation: closed forms and properties."""

from __future__ import annotations

import pytest
import torch

from sida.numerics.augment import AUGMENT_DIM, augment, draw_augment
from sida.numerics.draws import Draws
from sida.numerics.inception_score import SplitSums
from sida.numerics.kid import kernel_distance, kid_subsets
from sida.numerics.precision_recall import precision_recall, rows_at_once
from tests.golden.metrics import inception_score


def features(seed: int, count: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_certain_and_even_predictions_score_the_number_of_classes_and_equal_ones_score_one() -> None:
    assert inception_score(torch.eye(5).repeat(20, 1), splits=10) == pytest.approx((5.0, 0.0))
    assert inception_score(torch.full((30, 5), 0.2), splits=3) == pytest.approx((1.0, 0.0))
    with pytest.raises(ValueError, match="do not make"):
        inception_score(torch.full((3, 5), 0.2), splits=4)


def test_the_inception_score_does_not_depend_on_how_the_rows_are_cut_and_merged() -> None:
    probabilities = torch.softmax(features(0, 103), dim=1)
    whole = inception_score(probabilities, splits=10)
    total = SplitSums(6, 103)
    for start in (60, 0, 90):  # in any order
        part = SplitSums(6, 103)
        stop = {60: 90, 0: 60, 90: 103}[start]
        for row in range(start, stop, 7):
            part.add(probabilities[row : min(row + 7, stop)], row)
        total.merge(part.state())
    assert total.score() == pytest.approx(whole, rel=1e-12)


def test_the_kernel_distance_of_equal_distributions_is_zero_within_its_error() -> None:
    same = kernel_distance(features(0, 400), features(1, 400), kid_subsets(400, 400, subsets=4))
    far = kernel_distance(features(0, 400), features(1, 400, shift=1.0), kid_subsets(400, 400, subsets=4))
    assert abs(same) < 0.1
    assert far > 2


def test_kid_subsets_are_seeded_distinct_and_without_repetition() -> None:
    first, again = kid_subsets(30, 20, seed=1, subsets=3), kid_subsets(30, 20, seed=1, subsets=3)
    for (real, generated), (real2, generated2) in zip(first, again, strict=True):
        assert torch.equal(real, real2) and torch.equal(generated, generated2)
        assert len(real) == len(generated) == 20
        assert len(set(real.tolist())) == 20
    assert not torch.equal(first[0][0], first[1][0])
    with pytest.raises(ValueError, match="at least one subset"):
        kernel_distance(features(0, 3), features(1, 3), [])


def test_precision_and_recall_are_one_for_the_same_samples_and_zero_far_away() -> None:
    real = features(0, 40)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, features(1, 40, shift=100.0)) == (0.0, 0.0)
    assert precision_recall(real, features(1, 50), rows=7) == precision_recall(real, features(1, 50))
    with pytest.raises(ValueError, match="more than 3 samples"):
        precision_recall(real, real[:3])


def test_distances_to_all_of_imagenet_are_held_for_so_many_rows_that_a_gpu_has_room() -> None:
    """Ten thousand rows took 51 GB in float32, and 26 in half precision beside."""
    assert rows_at_once(50_000) == rows_at_once(100_000) == 10_000
    assert rows_at_once(1_281_167) == 780  # 4 GB, and 2
    assert rows_at_once(2 * 10**9) == 1


def test_a_narrow_generator_is_precise_and_recalls_little() -> None:
    precision, recall = precision_recall(features(0, 200), 0.1 * features(1, 200))
    assert precision > 0.9
    assert recall < 0.1


def test_augmentation_with_probability_zero_at_most_flips() -> None:
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y, labels = augment(x, draw_augment(Draws(0), "test", torch.arange(8)), 0.0)
    flipped = labels[:, 0].bool()
    assert labels.shape == (8, AUGMENT_DIM)
    assert flipped.any() and not flipped.all() and not labels[:, 1:].any()
    expected = torch.where(flipped[:, None, None, None], x.flip(3), x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)  # the wavelet filters reconstruct exactly


def test_an_augmented_image_depends_on_its_index_and_not_on_its_batch() -> None:
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y, labels = augment(x, draw_augment(Draws(0), "test", torch.arange(6)), 1.0)
    alone, its_labels = augment(x[4:5], draw_augment(Draws(0), "test", torch.arange(4, 5)), 1.0)
    torch.testing.assert_close(alone, y[4:5])
    torch.testing.assert_close(its_labels, labels[4:5])


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="shear"):
        augment(torch.zeros(1, 1, 4, 4), draw_augment(Draws(0), "test", torch.arange(1)), 1.0, ["shear"])
