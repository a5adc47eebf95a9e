"""The real images that a picture shows beside samples."""

from __future__ import annotations

import torch

from sida.report.samples import spread_by_label


def test_real_images_are_of_the_samples_labels_and_spread_over_the_set() -> None:
    real = torch.tensor([0] * 8 + [1] * 4)
    labels = torch.tensor([0, 1] * 4)
    assert spread_by_label(real, labels, True).tolist() == [0, 8, 2, 9, 4, 10, 6, 11]
    assert spread_by_label(real, labels, False).tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_a_label_that_no_real_image_has_shows_any() -> None:
    assert spread_by_label(torch.tensor([0, 0]), torch.tensor([1, 1]), True).tolist() == [0, 1]
