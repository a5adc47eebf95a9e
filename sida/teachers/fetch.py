"""The steps fetch_teacher and fetch_generator: bring a pretrained network into the store, verified, as safetensors."""

from __future__ import annotations

from typing import Any

from sida.addresses import redact
from sida.errors import UserError
from sida.foreign.fetch import digest_of_file, fetch_file
from sida.manifests import TeacherResult
from sida.process.scratch import scratch_folder
from sida.recipe import Generator, Network, Recipe, Teacher
from sida.steps import Made, StepRun, step
from sida.teachers.convert import convert
from sida.teachers.formats import read_network

SOURCES = ("sida/teachers", "sida/foreign")


def _asks_of_teacher(recipe: Recipe) -> dict[str, Any]:
    return {"network": recipe.teacher.network.model_dump(mode="json"), "licence": recipe.teacher.licence}


def _asks_of_generator(recipe: Recipe) -> dict[str, Any]:
    network = recipe.teacher.network.of_generator().model_dump(mode="json")
    return {"network": network, "licence": recipe.generator and recipe.generator.licence}


def _repeats(made: Made[TeacherResult]) -> dict[str, Any]:
    asked = _asks_of_teacher if made.about.step == "fetch_teacher" else _asks_of_generator
    return asked(made.recipe) | {"source_sha256": made.about.parameters["sha256"]}


@step(version=1, sources=SOURCES, asks=_asks_of_teacher, repeats=_repeats)
def fetch_teacher(run: StepRun, recipe: Recipe) -> TeacherResult:
    """Fetch the pretrained diffusion teacher and verify it.

    Returns:
        The teacher as safetensors, by address and digest.
    """
    return _fetch(run, recipe.teacher, recipe.teacher.network, "teacher")


@step(version=1, sources=SOURCES, output="generator", asks=_asks_of_generator, repeats=_repeats)
def fetch_generator(run: StepRun, recipe: Recipe) -> TeacherResult:
    """Fetch the finished SiD generator that SiD2A starts from, and verify it.

    Its network is the teacher's, without an uncertainty head.

    Returns:
        The generator as safetensors, by address and digest.
    """
    if recipe.generator is None:
        raise UserError(f"recipe {recipe.name}: it has no generator section, so there is no generator to fetch")
    return _fetch(run, recipe.generator, recipe.teacher.network.of_generator(), "generator")


def _fetch(run: StepRun, section: Teacher | Generator, architecture: Network, label: str) -> TeacherResult:
    address = section.address
    if address is None:
        raise UserError(
            f"recipe {run.recipe.name}: {label}.address is missing, so there is nothing to fetch: use `teach`"
        )
    digest = digest_of_file(
        address, label, section.sha256, step=run.step.name, check=lambda path: read_network(path, f"{label} {path}")
    )
    network = architecture.model_dump(mode="json")
    run.claim({"sha256": digest})

    path, _ = fetch_file(address, label, digest, step=run.step.name)
    with scratch_folder() as folder:
        converted = convert(
            path, folder, label=f"{label} {path.name}", network=network, origin=redact(address), licence=section.licence
        )
        weights = run.put(converted.weights, converted.weights.name)
    return TeacherResult(network=network, weights=weights, source_sha256=digest, licence=section.licence)
