"""Read a recipe's file: safe YAML, bases under variants, errors with the field's path and what would be accepted."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sida.errors import RecipeError
from sida.recipe.fields import Recipe
from sida.recipe.shipped import RECIPES, each_address, located


class Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases, and reads 1e-4 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError) as error:  # PyYAML, on !!timestamp, !!bool, !!int of nonsense
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: not a value of {node.tag}") from error

    def construct_scalar(self, node: Any) -> str:
        """Join a character beyond U+FFFF, which JSON writes as two halves; refuse half a one."""
        text: str = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: half of a character (a surrogate): write it whole") from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key has to be a word")
            if key_node.value in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key_node.value!r} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_NUMBER = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), list("-+0123456789."))


def names() -> list[str]:
    """Return the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find(name: str) -> Path:
    """Return a recipe's file, by name or by path. Raises RecipeError that suggests the nearest name."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"no recipe file {name}: check the path, or see `sida list`")
        return path.resolve()
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"no recipe {name!r}: {hint}`sida list` shows all")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: not readable as YAML: {reason}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields, found {type(data).__name__}")
    return data


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    if "address" in changes and changes["address"] != base.get("address"):  # fields of the other file
        merged.pop("sha256", None)
        merged.pop("note", None)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _absolute(path: Path, address: str) -> str:
    """Return the file:// address of a path that is relative to the recipe's file ``path``; any other address as it is."""
    if "://" in address:
        return address
    if "\0" in address:
        raise RecipeError(f"{path}: address: {address[:80]!r} is no path: take the NUL out")
    return (path.parent / address).resolve().as_uri()


def addresses(recipe: Recipe) -> dict[str, str]:
    """Return dotted path of a field -> the address in it, of every file or folder that the recipe names, in its order."""
    return dict(_addresses(recipe.model_dump(mode="json"), ""))


def _addresses(section: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _addresses(value, f"{prefix}{key}.")
        elif key == "address" and value is not None:
            yield f"{prefix}{key}", value


def chain(name: str) -> list[Path]:
    """Return the recipe's file, then the one it extends, and so on."""
    path = find(name)
    files: list[Path] = []
    while True:
        if path in files:
            raise RecipeError(f"{path}: extends itself through {' -> '.join(file.name for file in files)}")
        files.append(path)
        base = _read(path).get("extends")
        if base is None:
            return files
        if not isinstance(base, str) or not base.isprintable() or not 0 < len(base) <= 200:
            raise RecipeError(f"{path}: extends: write the name or path of one recipe, found {str(base)[:80]!r}")
        sibling = path.parent / f"{base}.yaml"
        try:
            path = sibling if sibling.is_file() else find(base)
        except RecipeError as error:
            raise RecipeError(f"{path}: extends: {error}") from error


def _resolve(files: list[Path]) -> dict[str, Any]:
    """Return each file's fields over those of the recipe it extends, addresses made absolute."""
    merged: dict[str, Any] = {}
    for path in reversed(files):
        fields = each_address(_read(path), partial(_absolute, path))
        fields.pop("extends", None)
        merged.pop("expected", None)  # measurements belong to the recipe that they were made with
        merged = _merge(merged, fields)
    return merged


def _explain(error: ValidationError, file: str) -> RecipeError:
    errors = error.errors()  # a mistyped required key is both unknown and missing: the former says more
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"][:-1]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return RecipeError(f"{file}: {field}: unknown key; {hint}")
    if first["type"] == "missing":
        return RecipeError(f"{file}: {field}: is missing; add it")
    message = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first.get("input"), dict) else f", found {str(first.get('input'))[:80]!r}"
    return RecipeError(f"{file}: {field}: {message}{value}")


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)


def parse(data: dict[str, Any], file: str) -> Recipe:
    """Turn resolved fields into a Recipe. Raises RecipeError with the field's path and what would be accepted."""
    try:
        return Recipe.model_validate_json(json.dumps(each_address(data, located)), strict=True)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from error
    except ValidationError as error:
        raise _explain(error, file) from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: {error}; use numbers, text, lists and mappings only") from error


def load(name: str) -> Recipe:
    """Load the recipe called ``name``, or the one in the file ``name``.

    >>> recipe = load("cifar10-uncond")
    >>> recipe.method.name, recipe.method.alpha, recipe.dataset.resolution
    ('sida', 1.0, 32)
    """
    files = chain(name)
    return parse(_resolve(files), str(files[0] if "/" in name else files[0].name))
