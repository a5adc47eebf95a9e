"""Origin of each value of a resolved recipe: the file and line that set it, or a default."""

from __future__ import annotations

from typing import Any

import yaml

from sida.recipe.reading import Loader, chain
from sida.recipe.recipe import Recipe
from sida.recipe.shipped import RECIPES


def origins(name: str) -> dict[str, str]:
    """Return dotted path of a field -> "file:line" of the last file that set it; fields left to their default are absent."""
    sources: dict[str, str] = {}
    for path in reversed(chain(name)):
        file = path.relative_to(RECIPES) if path.is_relative_to(RECIPES) else path.name
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=Loader)
        _note(node, "", str(file), sources)
    sources.pop("extends", None)
    return sources


def _note(node: Any, prefix: str, file: str, sources: dict[str, str]) -> None:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            sources.pop(path, None)
            _note(value, f"{path}.", file, sources)
            continue
        for replaced in [each for each in sources if each.startswith(f"{path}.")]:
            del sources[replaced]
        sources[path] = f"{file}:{key.start_mark.line + 1}"


def annotated(recipe: Recipe, sources: dict[str, str]) -> str:
    """Return the resolved recipe as YAML; behind each value, as a comment, its origin."""
    lines: list[tuple[str, str]] = []
    _write(recipe.model_dump(mode="json"), "", 0, sources, lines)
    width = min(76, max(len(text) for text, _ in lines))
    return "".join(f"{text:<{width}}  # {source}\n" if source else f"{text}\n" for text, source in lines)


def _write(
    fields: dict[str, Any], prefix: str, depth: int, sources: dict[str, str], lines: list[tuple[str, str]]
) -> None:
    for key, value in fields.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            lines.append((f"{'  ' * depth}{key}:", ""))
            _write(value, f"{path}.", depth + 1, sources, lines)
            continue
        flow = None if isinstance(value, list) else False  # lists on one line
        text = yaml.safe_dump({key: value}, default_flow_style=flow, width=10_000).rstrip("\n")
        lines.append((f"{'  ' * depth}{text}", sources.get(path, "default")))
