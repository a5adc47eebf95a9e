"""Read a recipe's file: safe YAML, bases under variants, errors with the field's path and what would be accepted.

Profiles are found and read in the same way: ``find_file``, ``read_fields`` and ``fault`` are theirs too.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sida.addresses import checked, local_path
from sida.errors import RecipeError, UserError
from sida.masking import without_secrets
from sida.printing import one_line
from sida.recipe.recipe import Recipe
from sida.recipe.shipped import RECIPES, each_address, located
from sida.recipe.texts import check_texts

MOST_BYTES = 128 << 10  # of a file: ours have 3 KiB, and PyYAML takes seconds for a mebibyte


class Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and more than ``most_aliases``, and reads 1e-4 as a number."""

    most_aliases = 0
    _aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > self.most_aliases:
                line = self.peek_event().start_mark.line + 1
                limit = f"more than {self.most_aliases} " if self.most_aliases else ""
                raise yaml.YAMLError(f"line {line}: {limit}aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None and _OF_1_1.match(node.value):
            line, value = node.start_mark.line + 1, one_line(node.value, 40)
            raise yaml.YAMLError(
                f"line {line}: {value} is another number in YAML 1.1 than in 1.2: quote it, or write 8 for 010"
            )
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
            merging = key_node.tag == "tag:yaml.org,2002:merge"
            if merging and not self.most_aliases:  # without aliases nothing is worth merging
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: << (merging) is not read: write the fields out, or use extends")
            if key_node.value in seen:
                raise yaml.YAMLError(
                    f"line {key_node.start_mark.line + 1}: {one_line(key_node.value, 80)!r} is given twice"
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_OF_1_1 = re.compile(
    r"[-+]?(?:0[0-9_]+|0b[01_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$"
)  # octal, binary, sixties
_NUMBER = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), list("-+0123456789."))


def names(folder: Path = RECIPES) -> list[str]:
    """Return the recipes that come with the project, or what comes with it in another folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find(name: str) -> Path:
    """Return a recipe's file, by name or by path. Raises RecipeError that suggests the nearest name."""
    try:
        return find_file("recipe", name, RECIPES, "`sida list` shows all").resolve()
    except UserError as error:
        raise RecipeError(str(error)) from error


def find_file(kind: str, name: str, folder: Path, others: str) -> Path:
    """Return the YAML file called ``name`` in ``folder``, or at the path ``name``. Raises UserError that says which there are."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = local_path(name, kind)
        if not path.is_file():
            found = "that is a folder" if path.is_dir() else "that is a pipe, socket or device" * path.exists()
            raise UserError(f"no {kind} file {name}: {found or 'it is not there'}: check the path; {others}")
        return path
    path = folder / f"{checked(name, kind, ('file',))}.yaml"
    if not path.is_file():
        here = next((there for suffix in ("", ".yaml", ".yml") if Path(there := f"{name}{suffix}").is_file()), "")
        hint = f"did you mean the file ./{here}?" if here else nearest(name, names(folder), cutoff=0.4)
        raise UserError(f"no {kind} {name!r}: {hint and f'{hint} '}{others}; or give the path of a YAML file")
    return path


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question after the word that may have been meant; empty when none is near."""
    matches = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return f"did you mean {matches[0]!r}?" if matches else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_fields(path, "recipe")
    except UserError as error:
        raise RecipeError(str(error)) from error


def read_fields(path: Path, kind: str, loader: type[Loader] = Loader) -> dict[str, Any]:
    """Return the fields in a YAML file. Raises UserError for a file that is not readable as fields."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path}: is larger than {MOST_BYTES:,} bytes, so it is no {kind}: check the path")
        data = yaml.load(content.decode("utf-8"), Loader=loader)  # noqa: S506 (a SafeLoader)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # PyYAML raises whatever hostile text makes it raise
        text = _without_snippet(error)
        raise UserError(f"{path}: not readable as YAML: {text}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a {kind} is a mapping of fields, found {type(data).__name__}")
    return data


def _without_snippet(error: Exception) -> str:
    """Return what is wrong and in which line, without PyYAML's piece of the text: it may be cut within a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split()) or type(error).__name__


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
    try:
        address = checked(address, "address")
    except UserError as error:
        raise RecipeError(f"{path}: {error}") from error
    if "://" in address:
        return address
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
            raise RecipeError(
                f"{path}: extends: write the name or path of one recipe, found {one_line(str(base), 80)!r}"
            )
        sibling = path.parent / f"{base}.yaml"
        try:
            path = sibling if sibling.is_file() else find(base)
        except RecipeError as error:
            raise RecipeError(f"{path}: extends: {error}") from error


def _clean(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        check_texts(fields)
    except UserError as error:
        raise RecipeError(f"{path}: {error}") from error
    return fields


def _resolve(files: list[Path], *, to_show: bool) -> dict[str, Any]:
    """Return each file's fields over those of the recipe it extends, addresses made absolute; ``to_show``: secrets masked."""
    merged: dict[str, Any] = {}
    for path in reversed(files):
        fields = _read(path)
        fields = each_address(without_secrets(fields) if to_show else _clean(fields, path), partial(_absolute, path))
        fields.pop("extends", None)
        merged.pop("expected", None)  # measurements belong to the recipe that they were made with
        merged = _merge(merged, fields)
    return merged


def fault(error: ValidationError, model: type[BaseModel]) -> str:
    """Return ``field: what is wrong and what would be accepted`` of the first fault in a ``model``'s data."""
    errors = error.errors()  # a mistyped required key is both unknown and missing: the former says more
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path, value = first["loc"], first["input"]
    field = ".".join(one_line(str(part), 60) for part in path) or model.__name__.lower()
    if first["type"] == "extra_forbidden":
        keys = _keys_at(path[:-1], model)
        hint = nearest(str(path[-1]), keys) or f"known here: {', '.join(keys)}"
        return f"{field}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{field}: is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    hidden = isinstance(value, dict | BaseModel) or "secret" in message
    return f"{field}: {message}" + ("" if hidden else f", found {one_line(str(value), 80)!r}")


def _keys_at(path: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the fields of the section at a path; lists and dictionaries of sections are looked through."""
    for part in path:
        if part in model.model_fields:  # not so the index of an item, or its key
            model = section(model.model_fields[str(part)].annotation) or model
    return list(model.model_fields)


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, if any; that of the values of a mapping or list too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section, getattr(annotation, "__args__", ()))), None)


def _located(address: str) -> str:
    return located(checked(address, "address"))


def parse(data: dict[str, Any], file: str) -> Recipe:
    """Turn resolved fields into a Recipe. Raises RecipeError with the field's path and what would be accepted."""
    try:
        check_texts(data)
        return Recipe.model_validate_json(json.dumps(each_address(data, _located)), strict=True)
    except UserError as error:
        raise RecipeError(f"{file}: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{file}: {fault(error, Recipe)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{file}: {one_line(str(error), 150)}; use numbers, text, lists and mappings only") from error


def load(name: str, *, to_show: bool = False) -> Recipe:
    """Load the recipe called ``name``, or the one in the file ``name``; ``to_show``: with secrets masked, not refused.

    >>> recipe = load("cifar10-uncond")
    >>> recipe.method.name, recipe.method.alpha, recipe.dataset.resolution
    ('sida', 1.0, 32)
    """
    files = chain(name)
    return parse(_resolve(files, to_show=to_show), str(files[0] if "/" in name else files[0].name))
