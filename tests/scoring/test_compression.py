"""Images that were compressed with loss beside a reference that was not, and the reverse: what is known is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sida.data.prepare import prepare_data
from sida.manifests import DatasetResult, Manifest, ReferenceResult
from sida.scoring.compression import compression_note
from tests.scoring.conftest import tiny


def prepared(folder: Path, ending: str, transform: str = "none") -> Manifest[DatasetResult]:
    """A data set of 12 files at 8x8 (or larger, to be resized), four of them with this ending, as the step makes it."""
    folder.mkdir()
    size = 8 if transform == "none" else 12
    labels = []
    for number in range(12):
        name = f"{number:02d}{ending if number < 4 else '.png'}"
        pixels = np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        labels.append([name, number % 10])
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    data = {"source": "folder", "address": str(folder), "transform": transform}
    return prepare_data(recipe=tiny(dataset=data)).manifest


def reference(origin: str) -> ReferenceResult:
    return ReferenceResult.model_construct(origin=origin)


@pytest.mark.parametrize(
    ("ending", "transform", "lossy", "words"),
    [
        (
            ".png",
            "none",
            5,
            ["5 of 9 images were compressed with loss", "those of the reference were not", "save them as PNG"],
        ),
        (".jpg", "center-crop", 5, ["of the reference 4 of 12 were, before they had their size", "save them as PNG"]),
        (".jpg", "none", 5, ["and 4 of the 12 of the reference, taken as they were"]),
        (".jpg", "none", 0, ["4 of the 12 images of the reference were compressed with loss", "none of these"]),
        (".jpg", "center-crop", 0, []),
        (".png", "none", 0, []),
    ],
)
def test_a_reference_prepared_here_is_known(
    place: Path, ending: str, transform: str, lossy: int, words: list[str]
) -> None:
    dataset = prepared(place / "data", ending, transform)
    assert dataset.about.notes["lossy_files"] == (4 if ending == ".jpg" else 0)
    said = compression_note(lossy, 9, reference("computed"), dataset)
    assert all(word in said for word in words) and bool(said) == bool(words), said


def test_of_published_statistics_and_of_older_manifests_it_is_said_that_nothing_is_known(place: Path) -> None:
    dataset = prepared(place / "data", ".png")
    said = compression_note(5, 9, reference("published"), dataset)
    assert "of the reference it is not known (its statistics are published ones)" in said
    older = dataset.model_copy(update={"about": dataset.about.model_copy(update={"notes": {}})})
    said = compression_note(5, 9, reference("computed"), older)
    assert "it is not known (an older version prepared its images)" in said
