"""Texts of recipes and profiles: they are kept, sent and printed, so none holds a secret or a character that moves the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sida.errors import UserError
from sida.masking import is_secret_name, secret_in
from sida.printing import one_line, printable

INSTEAD = "take it out; credentials come from the environment or a Kubernetes Secret"


class SecretFound(UserError, ValueError):
    """A value looks like a secret; a ValueError too, so that pydantic names the field."""


def refuse_secret(field: str, name: str, value: str, instead: str = INSTEAD) -> None:
    """Raise SecretFound, without showing the value, when a name or a value is that of a secret."""
    named = is_secret_name(name.upper().removesuffix("_ID"))  # the id of a key belongs where its secret is
    reason = "its name is that of a secret" if value and named else ""
    if found := secret_in(value):
        reason = f"it holds {found}"
    if reason:
        raise SecretFound(f"{field} looks like a secret ({reason}), and would be printed: {instead}")


def check_texts(fields: Any, path: str = "") -> None:
    """Refuse secrets, by value, and what cannot be printed. Raises UserError with the field's path."""
    for field, text in texts(fields, path):
        refuse_secret(field, "", text)
        if printable(text) != text:
            raise UserError(f"{field}: {one_line(text, 80)!r} holds a character that cannot be printed: take it out")


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text in nested fields, keys too, with its field's path."""
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        if isinstance(value, dict) and isinstance(key, str):
            yield f"a key of {path}" if path else "a key", key
        yield from texts(item, f"{path}.{key}" if path else str(key))
