"""The step fetch_released: a generator that was made elsewhere, the authors' or anybody's, as one of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.foreign.fetch import fetch_file
from sida.manifests import GeneratorResult, digest_of
from sida.printing import one_line
from sida.recipe import Recipe
from sida.recipe.method import MOST_NOISE, MOST_STEPS
from sida.steps import Made, StepRun, step
from sida.teachers.convert import convert, is_as_named
from sida.teachers.files import load_network
from sida.teachers.formats import read_network


def _repeats(made: Made[GeneratorResult]) -> dict[str, Any]:
    parameters, method = made.about.parameters, made.recipe.method
    titles = {parameters["method"]} | ({method.title} if parameters["method"] == method.name else set())
    return _described(made.recipe) | {
        "images_seen": parameters["images_seen"],
        "method": made.result.method if made.result.method in titles else parameters["method"],
        "source_sha256": parameters["sha256"],
    }


def _described(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of the result that are the recipe's, or empty."""
    network = generator_network(recipe)
    return {
        "network": network,
        "sigma_init": recipe.method.sigma_init,
        "steps": recipe.method.steps,
        "selection_score": None,
        "curve": None,
        "recipe_sha256": digest_of(network),
        "licence": recipe.teacher.licence,
    }


@step(
    version=1,
    sources=("sida/scoring/adopt.py", "sida/teachers", "sida/foreign"),
    per_recipe=True,
    repeats=_repeats,
)
def fetch_released(run: StepRun, recipe: Recipe, address: str = "", method: str = "") -> GeneratorResult:
    """Fetch the generator that the authors released for a recipe, and convert it without running anything in it.

    With ``address`` it is another finished generator, and ``method`` its title.

    Returns:
        The generator as safetensors, by address and digest.
    """
    released = None if address else recipe.released
    if released is not None and recipe.method.steps > 1:
        raise UserError(
            f"recipe {recipe.name}: method.steps is {recipe.method.steps}, and its released generator takes 1: set it to 1, or "
            f"name a file of your own"
        )
    if released is not None:
        address, pinned, seen = released.address, released.sha256, released.kimg * 1000
    elif address:
        pinned, seen = None, 0
    else:
        raise UserError(f"recipe {recipe.name}: no generator was released for it: name a file")
    path, digest = fetch_file(
        address, "generator", pinned, step="fetch_released", check=lambda path: read_network(path, f"generator {path}")
    )
    steps = called_as(recipe, read_network(path, f"generator {path}").about, f"generator {address}")[1]
    network = generator_network(recipe)
    parameters = {
        "sha256": digest,
        "network": network,
        "sigma_init": recipe.method.sigma_init,
        "method": method or recipe.method.name,
        "images_seen": seen,
        **({} if steps == 1 else {"steps": steps}),
    }
    run.claim(parameters)
    with tempfile.TemporaryDirectory() as folder:
        weights = as_safetensors(path, network, Path(folder))
        return GeneratorResult(
            weights=run.put(weights, weights.name),
            method=method or recipe.method.title,
            images_seen=seen,
            source_sha256=digest,
            **_described(recipe),
        )


def said_in(about: Mapping[str, Any], where: str) -> tuple[float, int] | None:
    """Return sigma_init and steps that a file's header says; None where it says none. Raises UserError for steps that none has."""
    sigma_init, steps = about.get("sigma_init"), about.get("steps", 1)
    if isinstance(sigma_init, bool) or not isinstance(sigma_init, int | float) or not 0 < sigma_init < MOST_NOISE:
        return None
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise UserError(
            f"{where}: says that it takes {one_line(repr(steps), 40)} steps: a generator takes 1 to {MOST_STEPS}"
        )
    return float(sigma_init), steps


def called_as(recipe: Recipe, about: Mapping[str, Any], where: str) -> tuple[float, int]:
    """Return sigma_init and steps of a generator's file under a recipe; one that does not say its steps takes one.

    Raises UserError for a recipe that says otherwise: another sigma_init or number of steps makes other images.
    """
    method, said = recipe.method, said_in(about, where)
    if said is not None and said[0] != method.sigma_init:
        raise UserError(
            f"{where}: begins at sigma_init {said[0]:g}, the recipe's method.sigma_init is {method.sigma_init:g}: set that so"
        )
    steps = 1 if said is None else said[1]
    if steps != method.steps:
        whose = "does not say its steps, and so takes 1" if said is None else f"takes {steps} step{'s' * (steps > 1)}"
        raise UserError(f"{where}: {whose}; the recipe's method.steps is {method.steps}: set that to {steps}")
    return method.sigma_init, steps


def generator_network(recipe: Recipe) -> dict[str, Any]:
    """Return the teacher's architecture; EDM2's generator has no uncertainty head."""
    return recipe.teacher.network.of_generator().model_dump(mode="json")


def as_safetensors(path: Path, network: dict[str, Any], folder: Path) -> Path:
    """Return the file itself when it is a safetensors file that loads as this network, else its conversion in ``folder``.

    Nothing of a foreign file is executed. Raises UserError for a file of another form or network.
    """
    if path.suffix == ".safetensors" and is_as_named(path, network):
        load_network(path, network, label=f"generator {path}")
        return path

    return convert(path, folder, label=f"generator {path}", network=network).weights
