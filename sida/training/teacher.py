"""The step teach: train the teacher that a recipe describes, in place of fetching one."""

from __future__ import annotations

from typing import Any

from sida.errors import UserError
from sida.launch.job import run_job
from sida.manifests import TeacherResult, read_manifest
from sida.recipe import Recipe
from sida.steps import Context, Published, step
from sida.stores.base import ObjectRef


@step("teach", version=1, sources=("sida/training", "sida/numerics", "sida/data"))
def teach(context_of: Any, *, recipe: Recipe, dataset: str, attempt: str = "") -> Published:
    """Train the recipe's teacher on its data set and publish it."""
    inputs = {"dataset": read_manifest(dataset, "dataset")}
    teacher = recipe.teacher
    if teacher.train is None:
        raise UserError(f"recipe {recipe.name}: teacher.train is missing, so there is nothing to train: add it")
    network = teacher.network.model_dump(mode="json")

    def produce(context: Context) -> TeacherResult:
        spec = {
            "recipe": recipe.model_dump(mode="json"),
            "inputs": {name: manifest.to_json().decode() for name, manifest in inputs.items()},
        }
        result = run_job(context, "teach", spec, recipe.execution)
        weights = ObjectRef(*result["teacher"])
        return TeacherResult(network=network, weights=weights, source_sha256=weights.sha256, licence=teacher.licence)

    parameters = {"network": network, "train": teacher.train.model_dump(mode="json"), "licence": teacher.licence}
    return context_of(parameters=parameters, inputs=inputs, produce=produce, attempt=attempt)
