"""The files that a recipe ships: its trained teacher and, for the digits, the detector; with their digests."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sida.disk import writing, writing_whole
from sida.errors import UserError
from sida.manifests import DatasetResult, Manifest, TeacherResult
from sida.recipe import Recipe
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.objects import fetch_object, sha256_of

DETECTOR_EPOCHS, DETECTOR_SEED = 30, 0
LEAST_ACCURACY = 0.97


@dataclass(frozen=True)
class Asset:
    """A file to ship with the recipe: the field that names it, where it lies, its digest, what is known of it."""

    field: str
    path: Path
    sha256: str
    note: str


def export_assets(
    recipe: Recipe, teacher: Manifest[TeacherResult], dataset: Manifest[DatasetResult], output: Path
) -> list[Asset]:
    """Copy the trained teacher to the folder ``output``; for the digits, train their detector and write it beside it.

    Raises UserError when the detector stays below 97% held-out accuracy, or when the folder cannot be written.
    """
    store = open_store(settings().store)
    with writing(output, "--output"):
        output.mkdir(parents=True, exist_ok=True)
    weights, path = teacher.result.weights, output / f"{recipe.name}-teacher.safetensors"
    content = fetch_object(store, weights)
    with writing_whole(path, "--output") as draft:
        shutil.copyfile(content, draft)
    images = recipe.teacher.train.images if recipe.teacher.train else 0
    assets = [Asset("teacher", path, weights.sha256, f"trained on {images:,} images")]
    if recipe.dataset.source == "digits":
        assets.append(_detector(store, recipe, dataset.result, output))
    return assets


def _detector(store: ObjectStore, recipe: Recipe, dataset: DatasetResult, output: Path) -> Asset:
    import torch
    from safetensors.torch import save

    from sida.data.shards import Shards
    from sida.scoring.detector import train_digits_detector

    torch.set_num_threads(recipe.execution.threads)
    shards = Shards(store, dataset)
    images, labels = shards.read(torch.arange(len(shards)))
    detector, accuracy = train_digits_detector(images, labels, epochs=DETECTOR_EPOCHS, seed=DETECTOR_SEED)
    if accuracy < LEAST_ACCURACY:
        raise UserError(f"detector: held-out accuracy {accuracy:.3f} is below {LEAST_ACCURACY}: train it longer")
    path = output / f"{recipe.name}-detector.safetensors"
    header = {"detector": json.dumps({"kind": "digits", "held_out_accuracy": round(accuracy, 4)})}
    content = save(detector.state_dict(), metadata=header)
    with writing_whole(path, "--output") as draft:
        draft.write_bytes(content)
    return Asset("evaluation.detector", path, sha256_of(content)[0], f"held-out accuracy {accuracy:.2%}")
