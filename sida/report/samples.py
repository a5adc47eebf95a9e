"""Pictures of a run and the evidence beside them: sample grids, nearest training images, class coverage.

All grids have the same seeds and labels, those at the start of the first held-out range. Latents are shown decoded,
training images too. Nearness is Euclidean distance in the score's features. The coverage of a class is the share of its
samples whose nearest training image has that class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sida import devices
from sida.data.latents import decoder_of
from sida.data.shards import Shards, network_input, one_hot
from sida.manifests import DatasetResult, GeneratorResult, Manifest, ReferenceResult, ScoresResult, TeacherResult
from sida.recipe import Recipe
from sida.report.grid import GRID_COLUMNS, GRID_ROWS, ImagePanel, draw_nearest, draw_panel, draw_panels
from sida.scoring.detector import load_detector
from sida.scoring.measure import decoded, generator_images, guide_of, network_to_score, teacher_images
from sida.scoring.protocol import MakeImages, pixels_of
from sida.scoring.score import first_seeds
from sida.stores.objects import fetch_object

if TYPE_CHECKING:
    from sida.stores import ObjectStore

SAMPLES = 1_000  # generated images whose neighbors are looked up
TRAINING = 10_000  # training images looked at, evenly spread, where there are more
DECODED_SAMPLES, DECODED_TRAINING = 100, 500  # of latents: decoding one takes as long as many networks
SHOWN = 12  # samples drawn with their neighbors
NEIGHBORS = 3

Model = Literal["real", "teacher", "generator"]
Decode = Callable[[Tensor], Tensor]  # normalized latents [B, 4, h, w] -> uint8 [B, 3, H, W]


@dataclass(frozen=True)
class Drawn:
    """Pictures as PNG: a sheet of all panels, each panel alone, samples with their neighbors; and numbers about them."""

    sheet: bytes
    panels: dict[Model, tuple[str, bytes]]  # real, teacher, generator -> title, picture
    nearest: bytes | None  # None: the data set is labels alone
    evidence: dict[str, Any]


def draw(store: ObjectStore, recipe: Recipe, inputs: Mapping[str, Manifest[Any]]) -> Drawn:
    """Make the images and draw them. ``inputs``: manifests teacher, generator, dataset, reference."""
    torch.set_num_threads(recipe.execution.threads)
    device = devices.claim()
    data: DatasetResult = inputs["dataset"].result
    generator: GeneratorResult = inputs["generator"].result
    latents = recipe.dataset.latents
    decode = None if latents is None else decoder_of(latents, device)
    most = SAMPLES if decode is None else DECODED_SAMPLES
    labels = _labels(data.classes, max(GRID_ROWS * GRID_COLUMNS, min(most, recipe.evaluation.images)))
    seeds = first_seeds(recipe)[0] + torch.arange(len(labels))
    cells = slice(0, GRID_ROWS * GRID_COLUMNS)
    with torch.no_grad():
        c = one_hot(labels, data.classes)
        by_teacher = _teacher(store, recipe, inputs, device, decode)(seeds[cells].to(device), c[cells].to(device)).cpu()
        theta = network_to_score(store, recipe, generator.weights, generator.network, device)
        batch = recipe.execution.batch_limit
        make = decoded(generator_images(theta, generator.sigma_init, generator.steps), decode)
        parts = [
            pixels_of(make(some.to(device), labeled.to(device)), int(some[0])).cpu()
            for some, labeled in zip(seeds.split(batch), c.split(batch), strict=True)
        ]
        by_generator = torch.cat(parts)
    evaluations = "1 evaluation" if generator.steps == 1 else f"{generator.steps} evaluations"
    panels: dict[Model, ImagePanel] = {
        "teacher": ImagePanel(f"teacher, {recipe.teacher.sampler.nfe} evaluations", by_teacher),
        "generator": ImagePanel(f"generator ({generator.method}), {evaluations}", by_generator[cells]),
    }
    evidence: dict[str, Any] = {"samples": len(labels), "first_seed": int(seeds[0]), "coverage": []}
    nearest = None
    if data.record != "labels":
        images, real_labels = _training_images(Shards(store, data), device, decode)
        real = ImagePanel("real images", images[spread_by_label(real_labels, labels[cells], bool(data.classes))])
        panels = {"real": real, **panels}
        reference: ReferenceResult = inputs["reference"].result
        near, distances, real_distance = _neighbors(store, reference, by_generator, images, device)
        nearest = draw_nearest(by_generator[:SHOWN], [images[near[:SHOWN, k]] for k in range(NEIGHBORS)])
        evidence |= {
            "training_images": len(images),
            "training_images_in_all": data.count,
            "median_distance": float(distances[:, 0].median()),
            "median_distance_of_real": real_distance,
            "coverage": _coverage(labels, real_labels[near[:, 0]], data.classes),
        }
    alone = {name: (panel.title, draw_panel(panel)) for name, panel in panels.items()}
    return Drawn(draw_panels(list(panels.values())), alone, nearest, evidence)


def _labels(classes: int, count: int) -> Tensor:
    """Return int64 [count]: the classes in turn; the first rows show up to one class a column."""
    if not classes:
        return torch.zeros(count, dtype=torch.int64)
    columns = torch.arange(GRID_ROWS * GRID_COLUMNS) % min(classes, GRID_COLUMNS)
    rest = torch.arange(max(0, count - len(columns))) % classes
    return torch.cat([columns, rest])[:count]


def _teacher(
    store: ObjectStore, recipe: Recipe, inputs: Mapping[str, Manifest[Any]], device: torch.device, decode: Decode | None
) -> MakeImages:
    """Return the teacher under its sampler, with the guide that it was scored with."""
    teacher: TeacherResult = inputs["teacher"].result
    scored: ScoresResult = inputs["teacher_scores"].result
    phi = network_to_score(store, recipe, teacher.weights, teacher.network, device)
    guide = guide_of(store, recipe, scored.guide, device)
    return decoded(teacher_images(phi, recipe.teacher.sampler, guide), decode)


def _training_images(shards: Shards, device: torch.device, decode: Decode | None) -> tuple[Tensor, Tensor]:
    """Return images uint8 [N, C, H, W] and labels int64 [N], at most TRAINING, evenly spread over the set."""
    step = max(1, -(-len(shards) // (TRAINING if decode is None else DECODED_TRAINING)))
    data, labels = shards.read(torch.arange(0, len(shards), step))
    if decode is None:
        return data, labels
    parts = [decode(network_input(part.to(device), shards.dataset)).cpu() for part in data.split(64)]
    return torch.cat(parts), labels


def spread_by_label(real: Tensor, labels: Tensor, conditional: bool) -> Tensor:
    """Return int64 [M]: places of real images with these labels, those of a label spread over all that have it."""
    wanted = labels if conditional else torch.zeros_like(labels)
    chosen = torch.zeros(len(labels), dtype=torch.int64)
    for label in wanted.unique():
        cells = torch.nonzero(wanted == label).flatten()
        pool = torch.nonzero(real == label).flatten() if conditional else torch.arange(len(real))
        pool = pool if len(pool) else torch.arange(len(real))
        chosen[cells] = pool[torch.arange(len(cells)) * len(pool) // len(cells)]
    return chosen


def _neighbors(
    store: ObjectStore, reference: ReferenceResult, samples: Tensor, images: Tensor, device: torch.device
) -> tuple[Tensor, Tensor, float]:
    """Return the places (int64 [N, NEIGHBORS]) in ``images`` nearest to each of ``samples``, uint8, and distances.

    The last value is the median distance of a training image to the nearest other one; much nearer samples are copies.
    """
    detector: Any = load_detector(fetch_object(store, reference.detector)).to(device)
    with torch.no_grad():
        theirs, ours = (
            torch.cat([detector(part.to(device)).float().cpu() for part in pictures.split(500)])
            for pictures in (images, samples)
        )
        nearest = [
            torch.cdist(part, theirs).topk(min(NEIGHBORS, len(theirs)), largest=False) for part in ours.split(500)
        ]
    among = torch.cdist(theirs[:SAMPLES], theirs).topk(min(2, len(theirs)), largest=False).values[:, -1]
    return (
        torch.cat([part.indices for part in nearest]),
        torch.cat([part.values for part in nearest]),
        float(among.median()),
    )


def _coverage(labels: Tensor, nearest: Tensor, classes: int) -> list[float]:
    """Return each class's share of samples whose nearest training image is of that class; empty without labels."""
    return [
        float((nearest[labels == label] == label).float().mean()) if bool((labels == label).any()) else 0.0
        for label in range(classes)
    ]
