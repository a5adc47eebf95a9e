"""Refuse values that look like secrets: KFP stores and prints every parameter of a run."""

from __future__ import annotations

from collections.abc import Iterator

from sida.errors import UserError
from sida.masking import NAME, VALUES


class SecretFound(UserError, ValueError):
    """A value looks like a secret; a ValueError too, so that pydantic names the field."""


def refuse_secret(field: str, name: str, value: str, instead: str) -> None:
    """Raise SecretFound, without showing the value, when a name or a value is that of a secret."""
    reason = "its name is that of a secret" if value and NAME.search(name) else ""
    reason = reason or next((f"it holds {kind}" for kind, pattern in VALUES.items() if pattern.search(value)), "")
    if reason:
        raise SecretFound(f"{field} looks like a secret ({reason}), and would be printed: {instead}")


def refuse_secrets_in(value: object, path: str) -> None:
    """Look through nested data, by value; names of a recipe's fields are ours."""
    for field, text in _texts(value, path):
        refuse_secret(field, "", text, "take it out; credentials come from the environment or a Kubernetes Secret")


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}.{index}")
