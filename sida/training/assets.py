"""``python -m pipeline teach``: train the teacher and the detector that a recipe ships, and say their digests."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sida.data.prepare import prepare_data
from sida.errors import UserError
from sida.manifests import DatasetResult, TeacherResult
from sida.recipe import Recipe
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.base import fetch_object, sha256_of
from sida.training.teacher import teach

DETECTOR_EPOCHS, DETECTOR_SEED = 30, 0
LEAST_ACCURACY = 0.97


@dataclass(frozen=True)
class Asset:
    """A file to ship with the recipe: the field that names it, where it lies, its digest, what is known of it."""

    field: str
    path: Path
    sha256: str
    note: str


def make_assets(recipe: Recipe, output: Path, attempt: str = "") -> list[Asset]:
    """Train the recipe's teacher (and, for the digits, its detector) and copy them to the folder ``output``.

    Raises UserError when the recipe has no ``teacher.train``, or when the detector stays below 97% held-out accuracy.
    """
    if recipe.teacher.train is None:
        raise UserError(f"recipe {recipe.name}: teacher.train is missing, so there is nothing to train: add it")
    store = open_store(settings().store)
    output.mkdir(parents=True, exist_ok=True)
    dataset = prepare_data(recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "dataset.json"
        manifest.write_bytes(dataset.manifest.to_json())
        taught = teach(recipe=recipe, dataset=str(manifest), attempt=attempt)
    made: TeacherResult = taught.manifest.result
    teacher_path = output / f"{recipe.name}-teacher.safetensors"
    shutil.copyfile(fetch_object(store, made.weights), teacher_path)
    assets = [Asset("teacher", teacher_path, made.weights.sha256, f"{recipe.teacher.train.images:,} images")]
    if recipe.dataset.source == "digits":
        assets.append(_detector(store, recipe, dataset.manifest.result, output))
    return assets


def _detector(store: ObjectStore, recipe: Recipe, dataset: DatasetResult, output: Path) -> Asset:
    import torch
    from safetensors.torch import save_file

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
    save_file(detector.state_dict(), path, metadata=header)
    return Asset("evaluation.detector", path, sha256_of(path)[0], f"held-out accuracy {accuracy:.2%}")
