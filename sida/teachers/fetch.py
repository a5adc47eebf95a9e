"""The steps fetch_teacher and fetch_generator: bring a pretrained network into the store, verified, as safetensors."""

from __future__ import annotations

from typing import Any

from sida.errors import UserError
from sida.foreign.fetch import digest_of_file, fetch_file
from sida.manifests import TeacherResult
from sida.recipe import Generator, Network, Recipe, Teacher
from sida.scratch import scratch_folder
from sida.steps import Context, Published, step
from sida.stores.base import redact

SOURCES = ("sida/teachers", "sida/foreign")


@step("fetch_teacher", version=1, sources=SOURCES)
def fetch_teacher(context_of: Any, *, recipe: Recipe, attempt: str = "") -> Published:
    """Fetch the recipe's teacher, check its digest and its tensors, and publish it."""
    return _fetch(context_of, recipe, recipe.teacher, recipe.teacher.network, "teacher", attempt)


@step("fetch_generator", version=1, sources=SOURCES)
def fetch_generator(context_of: Any, *, recipe: Recipe, attempt: str = "") -> Published:
    """Fetch the finished SiD generator that SiD2A starts from; its network is the teacher's, without an uncertainty head."""
    if recipe.generator is None:
        raise UserError(f"recipe {recipe.name}: it has no generator section, so there is no generator to fetch")
    return _fetch(context_of, recipe, recipe.generator, recipe.teacher.network.of_generator(), "generator", attempt)


def _fetch(
    context_of: Any, recipe: Recipe, section: Teacher | Generator, wanted: Network, what: str, attempt: str
) -> Published:
    address = section.address
    if address is None:
        raise UserError(f"recipe {recipe.name}: {what}.address is missing, so there is nothing to fetch: use `teach`")
    name = f"fetch_{what}"
    digest = digest_of_file(address, what, section.sha256, step=name)
    network = wanted.model_dump(mode="json")

    def produce(context: Context) -> TeacherResult:
        from sida.teachers.convert import convert

        path, _ = fetch_file(address, what, digest, step=name)
        with scratch_folder() as folder:
            made = convert(
                path,
                folder,
                what=f"{what} {path.name}",
                network=network,
                origin=redact(address),
                licence=section.licence,
            )
            weights = context.put(made.weights, made.weights.name)
        return TeacherResult(network=network, weights=weights, source_sha256=digest, licence=section.licence)

    parameters = {"sha256": digest, "network": network, "licence": section.licence}
    return context_of(parameters=parameters, inputs={}, produce=produce, attempt=attempt)
