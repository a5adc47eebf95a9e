"""The step prepare_data: from a source of images to verified shards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sida.errors import UserError
from sida.manifests import DatasetResult
from sida.recipe import Recipe
from sida.steps import Context, Published, step


def _digits() -> tuple[np.ndarray, np.ndarray, str]:
    from sida.data.digits import load_digits_images

    return (*load_digits_images(), "ink counts 0..16 stretched to 0..255, rounded")


SOURCES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, str]]] = {"digits": _digits}


@step("prepare_data", version=1, sources=("sida/data",))
def prepare_data(context_of: Any, *, recipe: Recipe, attempt: str = "") -> Published:
    """Read the recipe's data source and publish it as shards."""
    dataset = recipe.dataset

    def produce(context: Context) -> DatasetResult:
        from sida.data.shards import write_shards

        images, labels, transform = SOURCES[dataset.source]()
        if images.shape[1:] != (dataset.channels, dataset.resolution, dataset.resolution):
            raise UserError(
                f"source {dataset.source!r} holds images {images.shape[1:]}, the recipe says {dataset.channels} channels "
                f"at {dataset.resolution}x{dataset.resolution}: correct dataset.channels and dataset.resolution"
            )
        if dataset.classes and not 0 <= labels.min() <= labels.max() < dataset.classes:
            raise UserError(
                f"source {dataset.source!r} has labels {labels.min()} to {labels.max()}, "
                f"the recipe says {dataset.classes} classes: correct dataset.classes"
            )
        histogram = np.bincount(labels, minlength=dataset.classes) if dataset.classes else np.zeros(0, int)
        with tempfile.TemporaryDirectory() as folder:
            shards = write_shards(images, labels if dataset.classes else None, Path(folder), context.put)
        return DatasetResult(
            source=dataset.source,
            transform=transform,
            licence=dataset.licence,
            count=len(images),
            channels=dataset.channels,
            resolution=dataset.resolution,
            classes=dataset.classes,
            histogram=tuple(histogram.tolist()),
            shards=shards,
        )

    return context_of(parameters=dataset.model_dump(mode="json"), inputs={}, produce=produce, attempt=attempt)
