"""Files that come with the project, under addresses that mean the same file on every machine: ``recipes://assets/NAME``.

A checkout lies elsewhere on each machine, and in images under /app. A recipe that travels names its teacher and detector so, and
every reader finds them in the recipes of its own project; the recipe's sha256 decides whether it is the very file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from sida.errors import RecipeError
from sida.printing import one_line

if TYPE_CHECKING:
    from sida.recipe.recipe import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SCHEME = "recipes://"


def portable(address: str) -> str:
    """Return the ``recipes://`` address of a file or folder of the project; any other address as it is."""
    if not address.startswith("file://"):
        return address
    path = Path(unquote(urlsplit(address).path))
    return f"{SCHEME}{quote(path.relative_to(RECIPES).as_posix())}" if path.is_relative_to(RECIPES) else address


def located(address: str) -> str:
    """Return the file:// address on this machine of a ``recipes://`` address; any other address as it is.

    Raises RecipeError for one that leads out of the project's recipes.
    """
    if not address.startswith(SCHEME):
        return address
    path = (RECIPES / unquote(address.removeprefix(SCHEME))).resolve()
    if not path.is_relative_to(RECIPES):
        raise RecipeError(
            f"address: {one_line(address, 80)!r} leads out of the project's recipes: write the file's own address"
        )
    return path.as_uri()


def each_address(section: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a copy of a recipe's fields with every address changed."""

    def changed(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return each_address(value, change)
        return change(value) if key == "address" and isinstance(value, str) else value

    return {key: changed(key, value) for key, value in section.items()}


def traveling(recipe: Recipe) -> bytes:
    """Return the resolved recipe as it lies in a store; ``parse`` reads it on any machine."""
    fields = each_address(recipe.model_dump(mode="json"), portable)
    return json.dumps(fields, indent=1, ensure_ascii=False).encode()
