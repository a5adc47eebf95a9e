"""What the eye is shown and how far to trust it: sample grids, the nearest training images, which classes are there.

All from the same seeds and labels: those of the first held-out range's beginning. Nearness is Euclidean distance in the features
that the score is made of; a class is covered as far as the nearest training image of its samples has that class too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sida.data.shards import Shards, one_hot
from sida.manifests import DatasetResult, GeneratorResult, Manifest, ReferenceResult, TeacherResult
from sida.numerics.quantise import to_uint8
from sida.recipe import Recipe
from sida.report.grid import GRID_COLUMNS, GRID_ROWS, Panel, draw_nearest, draw_panel, draw_panels
from sida.scoring.detector import load_detector
from sida.scoring.measure import generator_images, teacher_images
from sida.scoring.score import first_seeds
from sida.stores.base import fetch_object
from sida.teachers.files import load_network

if TYPE_CHECKING:
    from sida.stores import ObjectStore

SAMPLES = 1_000  # generated images whose neighbours are looked up
TRAINING = 10_000  # training images looked at, evenly spread, where there are more
SHOWN = 12  # samples drawn with their neighbours
NEIGHBOURS = 3


@dataclass(frozen=True)
class Drawn:
    """Files in a folder: a sheet of all panels, each panel alone, samples with their neighbours, numbers about them."""

    sheet: Path
    panels: dict[str, tuple[str, Path]]  # real, teacher, generator -> title, file
    nearest: Path
    evidence: Path


def draw(folder: Path, store: ObjectStore, recipe: Recipe, inputs: dict[str, Manifest]) -> Drawn:
    """Make the images and write the files. ``inputs``: manifests teacher, generator, dataset, reference."""
    torch.set_num_threads(recipe.execution.threads)
    data: DatasetResult = inputs["dataset"].result  # type: ignore[assignment]
    teacher: TeacherResult = inputs["teacher"].result  # type: ignore[assignment]
    made: GeneratorResult = inputs["generator"].result  # type: ignore[assignment]
    labels = _labels(data.classes, max(GRID_ROWS * GRID_COLUMNS, min(SAMPLES, recipe.evaluation.images)))
    seeds = first_seeds(recipe)[0] + torch.arange(len(labels))
    shown = slice(0, GRID_ROWS * GRID_COLUMNS)
    images, real_labels = _training_images(Shards(store, data))
    with torch.no_grad():
        phi = load_network(fetch_object(store, teacher.weights), teacher.network).eval()
        c = one_hot(labels, data.classes)
        by_teacher = teacher_images(phi, recipe.teacher.sampler)(seeds[shown], c[shown])
        theta = load_network(fetch_object(store, made.weights), made.network).eval()
        make, batch = generator_images(theta, made.sigma_init), recipe.execution.batch_limit
        parts = [make(some, labelled) for some, labelled in zip(seeds.split(batch), c.split(batch), strict=True)]
        by_generator = to_uint8(torch.cat(parts))
    panels = {
        "real": Panel("real images", images[_one_of_each(real_labels, labels[shown], bool(data.classes))]),
        "teacher": Panel(f"teacher, {recipe.teacher.sampler.nfe} evaluations", by_teacher),
        "generator": Panel(f"generator ({made.method}), 1 evaluation", by_generator[shown]),
    }
    near, distances, real_distance = _neighbours(store, inputs["reference"].result, by_generator, images)  # type: ignore[arg-type]
    drawn = Drawn(
        folder / "samples.png",
        {name: (panel.title, folder / f"samples-{name}.png") for name, panel in panels.items()},
        folder / "nearest.png",
        folder / "evidence.json",
    )
    draw_panels(drawn.sheet, list(panels.values()))
    for name, panel in panels.items():
        draw_panel(drawn.panels[name][1], panel)
    draw_nearest(drawn.nearest, by_generator[:SHOWN], [images[near[:SHOWN, k]] for k in range(NEIGHBOURS)])
    found = {
        "samples": len(labels),
        "training_images": len(images),
        "training_images_in_all": data.count,
        "first_seed": int(seeds[0]),
        "median_distance": float(distances[:, 0].median()),
        "median_distance_of_real": real_distance,
        "coverage": _coverage(labels, real_labels[near[:, 0]], data.classes),
    }
    drawn.evidence.write_text(json.dumps(found))
    return drawn


def _labels(classes: int, count: int) -> Tensor:
    """int64 [count]: the classes in turn; the first rows show up to one class a column."""
    if not classes:
        return torch.zeros(count, dtype=torch.int64)
    columns = torch.arange(GRID_ROWS * GRID_COLUMNS) % min(classes, GRID_COLUMNS)
    rest = torch.arange(max(0, count - len(columns))) % classes
    return torch.cat([columns, rest])[:count]


def _training_images(shards: Shards) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels int64 [N], at most TRAINING, evenly spread over the set."""
    step = max(1, -(-len(shards) // TRAINING))
    return shards.read(torch.arange(0, len(shards), step))


def _one_of_each(real: Tensor, wanted: Tensor, conditional: bool) -> Tensor:
    """int64 [M]: places of real images with the labels wanted, another one in each row of the grid."""
    chosen = []
    for position, label in enumerate(wanted.tolist()):
        pool = torch.nonzero(real == label).flatten() if conditional else torch.arange(len(real))
        pool = pool if len(pool) else torch.arange(len(real))
        chosen.append(int(pool[(position // GRID_COLUMNS if conditional else position) % len(pool)]))
    return torch.tensor(chosen)


def _neighbours(
    store: ObjectStore, reference: ReferenceResult, samples: Tensor, images: Tensor
) -> tuple[Tensor, Tensor, float]:
    """int64 [N, NEIGHBOURS] places in ``images`` (uint8) nearest to each of ``samples`` (uint8), and their distances.

    Last the median distance of training images to the nearest other one: samples much nearer than that would be copies.
    """
    detector: Any = load_detector(fetch_object(store, reference.detector))
    with torch.no_grad():
        theirs = torch.cat([detector(part).float() for part in images.split(500)])
        ours = torch.cat([detector(part).float() for part in samples.split(500)])
        found = [
            torch.cdist(part, theirs).topk(min(NEIGHBOURS, len(theirs)), largest=False) for part in ours.split(500)
        ]
    among = torch.cdist(theirs[:SAMPLES], theirs).topk(min(2, len(theirs)), largest=False).values[:, -1]
    return (
        torch.cat([part.indices for part in found]),
        torch.cat([part.values for part in found]),
        float(among.median()),
    )


def _coverage(labels: Tensor, nearest: Tensor, classes: int) -> list[float]:
    """For each class the share of its samples whose nearest training image is of that class; empty without labels."""
    return [
        float((nearest[labels == label] == label).float().mean()) if bool((labels == label).any()) else 0.0
        for label in range(classes)
    ]
