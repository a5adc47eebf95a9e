"""The step fetch_teacher: bring the pretrained model into the store, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sida.errors import UserError
from sida.manifests import TeacherResult
from sida.recipe import Recipe
from sida.steps import Context, Published, step
from sida.stores.base import redact, sha256_of


def local_file(address: str, what: str, sha256: str | None) -> tuple[Path, str]:
    """The file behind a file:// address and its sha256.

    Raises UserError when it is missing, or is not the file that the recipe names.
    """
    parts = urlsplit(address)
    if parts.scheme != "file":
        raise UserError(f"{what} {redact(address)}: only file:// addresses can be fetched so far; give a local path")
    path = Path(unquote(parts.path))
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file: put it there, or correct the address in the recipe")
    found, _ = sha256_of(path)
    if sha256 is not None and found != sha256:
        raise UserError(
            f"{what} {path}: sha256 is {found}, the recipe expects {sha256}: fetch the right file, or pin the new digest"
        )
    return path, found


@step("fetch_teacher", version=1, sources=("sida/teachers",))
def fetch_teacher(context_of: Any, *, recipe: Recipe, attempt: str = "") -> Published:
    """Fetch the recipe's teacher, check its digest and its tensors, and publish it."""
    teacher = recipe.teacher
    if teacher.address is None:
        raise UserError(f"recipe {recipe.name}: teacher.address is missing, so there is nothing to fetch: use `teach`")
    path, digest = local_file(teacher.address, "teacher", teacher.sha256)
    network = teacher.network.model_dump(mode="json")

    def produce(context: Context) -> TeacherResult:
        from sida.teachers.files import load_network

        load_network(path, network)
        return TeacherResult(
            network=network,
            weights=context.put(path, path.name),
            source_sha256=digest,
            licence=teacher.licence,
        )

    parameters = {"sha256": digest, "network": network, "licence": teacher.licence}
    return context_of(parameters=parameters, inputs={}, produce=produce, attempt=attempt)
