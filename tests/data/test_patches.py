"""The patches of scikit-learn's two photographs: which they are, and that another photograph is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from sida.data import patches
from sida.errors import UserError
from tests.data.making import result


def test_patches_are_the_windows_of_both_photographs_reduced_to_a_third() -> None:
    images, labels = patches.load_patches()
    assert images.shape == (8450, 3, 32, 32)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0] * 4225 + [1] * 4225
    for photograph, (_, _, left, top), first in zip(
        load_sample_images().images, patches.PHOTOGRAPHS, (0, 4225), strict=True
    ):
        small = Image.fromarray(photograph).resize((213, 142), Image.Resampling.BOX, box=(0, 0, 639, 426))
        window = np.asarray(small)[top + 7 : top + 39, left + 5 : left + 37].transpose(2, 0, 1)
        assert np.abs(images[first + 7 * 65 + 5].astype(int) - window).max() <= 1  # another rounding


def test_no_two_patches_are_equal() -> None:
    images, _ = patches.load_patches()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_another_photograph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, _, left, top), other = patches.PHOTOGRAPHS
    monkeypatch.setattr(patches, "PHOTOGRAPHS", ((name, "0" * 64, left, top), other))
    with pytest.raises(UserError, match=r"scikit-learn's china\.jpg"):
        patches.load_patches()


def test_prepare_data_tells_classes_and_what_decoded_the_photographs(place: Path) -> None:
    found = result("", "patches", classes=2, resolution=32, channels=3)
    assert (found.count, found.histogram, found.class_names) == (8450, (4225, 4225), ("pagoda", "dahlia"))
    assert found.decoder.startswith("Pillow ")
