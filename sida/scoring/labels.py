"""The step label_distribution: which classes a data set has, how often; enough to score where statistics are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sida.data.prepare import prepare_data
from sida.errors import UserError
from sida.foreign.boundary import reading
from sida.foreign.fetch import fetch_file
from sida.foreign.json_values import TEXT_BYTES, parse_json
from sida.manifests import DatasetResult
from sida.printing import one_line
from sida.recipe import Dataset, Recipe
from sida.steps import Made, Step, StepRun, step

# The training set's labels as EDM2's dataset tool lists them (facts: the authors' copy); the same images at every resolution.
IMAGENET_LABELS = "https://huggingface.co/UT-Austin-PML/SiDA/resolve/main/EDM2_distillation/dataset.json"
CIFAR10 = (5_000,) * 10


def needs_images(recipe: Recipe) -> bool:
    """Return whether scoring this recipe takes the training images, not just its label distribution."""
    evaluation = recipe.evaluation
    measured = (evaluation, evaluation.second) if evaluation.second else (evaluation,)
    return any(one.reference is None for one in measured) or bool(set(evaluation.extra_metrics) - {"is"})


def _repeats(made: Made[DatasetResult]) -> dict[str, Any]:
    return _described(made.recipe.dataset, made.result.histogram)


def _described(dataset: Dataset, histogram: tuple[int, ...]) -> dict[str, Any]:
    """Return the result's fields other than the frequencies themselves."""
    named = {name: getattr(dataset, name) for name in ("source", "licence", "channels", "resolution", "classes")}
    return named | {"transform": "labels only", "count": sum(histogram) or dataset.images or 0, "shards": ()}


@step(version=1, sources=("sida/scoring/labels.py",), per_recipe=True, repeats=_repeats)
def label_distribution(run: StepRun, recipe: Recipe) -> DatasetResult:
    """Find the training set's class frequencies without fetching its images.

    Returns:
        Class frequencies, and no shards.
    """
    dataset = recipe.dataset
    source = None
    if dataset.classes and dataset.source != "cifar10":
        address = dataset.address if dataset.source == "labels" else None
        if address is None and dataset.source in ("imagenet", "labels"):
            address = IMAGENET_LABELS
        if address is None:
            raise UserError(
                f"recipe {recipe.name}: the class frequencies of source {dataset.source!r} are not known without its images: "
                f"run prepare_data"
            )
        source = fetch_file(
            address,
            "labels",
            dataset.sha256 if address == dataset.address else None,
            step="label_distribution",
            check=lambda path: read_histogram(path, dataset.classes),
        )

    run.claim({"dataset": dataset.model_dump(mode="json"), "labels": source and source[1]})
    histogram: tuple[int, ...] = ()
    if dataset.classes:
        histogram = CIFAR10 if source is None else read_histogram(source[0], dataset.classes)
    if source is not None:
        run.notes["labels_sha256"] = run.put(source[0], "dataset.json").sha256
    return DatasetResult(histogram=histogram, **_described(dataset, histogram))


def data_step(recipe: Recipe) -> Step[DatasetResult]:
    """Return the step that finds what scoring needs of the training set: its images, or its label distribution alone."""
    return prepare_data if needs_images(recipe) else label_distribution


@step(version=1, sources=(), per_recipe=True, choose=data_step)
def score_data(run: StepRun, recipe: Recipe) -> DatasetResult:
    """Find the label distribution, or the images where statistics have to be computed from them.

    Returns:
        Class frequencies, and shards where images are needed.
    """
    return data_step(recipe).function(run, recipe)


def read_histogram(path: Path, classes: int) -> tuple[int, ...]:
    """Return images per class in a ``dataset.json`` {"labels": [[name, class], ...]}. Raises UserError for anything else."""
    with reading(f"labels {path}", path, "not a dataset.json with a list of [name, class]"):
        if path.stat().st_size > TEXT_BYTES:
            raise ValueError(f"it has more than {TEXT_BYTES:,} bytes")
        labels = [label for _, label in parse_json(path.read_bytes())["labels"]]
    counts = [0] * classes
    for label in labels:
        if type(label) is not int or not 0 <= label < classes:
            found = one_line(repr(label), 40) if isinstance(label, int | float | str) else type(label).__name__
            raise UserError(f"labels {path}: class {found} is out of range, the recipe has 0 to {classes - 1}")
        counts[label] += 1
    if not labels:
        raise UserError(f"labels {path}: holds no label: it is damaged, fetch it again")
    return tuple(counts)
