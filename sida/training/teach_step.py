"""The step teach: train the teacher that a recipe describes, in place of fetching one."""

from __future__ import annotations

from typing import Annotated, Any

from sida.errors import UserError
from sida.launch.job import run_job
from sida.launch.spec import ManifestRef, TeachSpec
from sida.manifests import DatasetResult, Manifest, TeacherResult
from sida.recipe import Recipe
from sida.steps import From, Made, StepRun, step


def _asks(recipe: Recipe) -> dict[str, Any]:
    teacher = recipe.teacher
    train = teacher.train and teacher.train.model_dump(mode="json")
    return {"network": teacher.network.model_dump(mode="json"), "train": train, "licence": teacher.licence}


def _repeats(made: Made[TeacherResult]) -> dict[str, Any]:
    asked = _asks(made.recipe)
    return {name: asked[name] for name in ("network", "licence")} | {"source_sha256": made.result.weights.sha256}


@step(
    version=1,
    sources=("sida/training", "sida/numerics", "sida/data"),
    launches=True,
    asks=_asks,
    repeats=_repeats,
)
def teach(
    run: StepRun, recipe: Recipe, dataset: Annotated[Manifest[DatasetResult], From("prepare_data")]
) -> TeacherResult:
    """Train the recipe's diffusion teacher, for recipes that have none to fetch.

    Args:
        dataset: The training set as shards.

    Returns:
        The trained teacher (EMA weights) as safetensors.
    """
    check_training(recipe)
    teacher = recipe.teacher
    network = teacher.network.model_dump(mode="json")
    run.claim(dataset=dataset)
    weights = run_job(run, TeachSpec(dataset=ManifestRef.of(dataset)), lambda *_: _checkpoint_bytes(recipe)).teacher
    return TeacherResult(network=network, weights=weights, source_sha256=weights.sha256, licence=teacher.licence)


def check_training(recipe: Recipe) -> None:
    """Raise UserError for a recipe that does not say how its teacher is trained."""
    if recipe.teacher.train is None:
        fetched = "" if recipe.teacher.address is None else "; `run` fetches its teacher"
        raise UserError(
            f"recipe {recipe.name}: teacher.train is missing, so there is nothing to train: add it{fetched}"
        )


def _checkpoint_bytes(recipe: Recipe) -> int:
    """Return the size of a checkpoint: the network, its EMA, Adam's two moments, in float32."""
    from sida.teachers.files import network_on_meta  # torch

    network = network_on_meta(recipe.teacher.network.model_dump(mode="json"), recipe.name)
    return 4 * 4 * sum(parameter.numel() for parameter in network.parameters())
