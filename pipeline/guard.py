"""Values that look like secrets are refused: KFP stores and prints every parameter of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sida.errors import UserError

_NAME = re.compile(r"(pass(word|wd|phrase)|secret|token|credential|api_?key|access_?key|private_?key|cookie)", re.I)
_VALUES = {
    "a presigned address": re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.I),
    "an address with a password": re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a token": re.compile(r"\b(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|hf_\w{20,}|gh[pousr]_\w{20,}|glpat-[\w-]{20,})"),
}


class SecretFound(UserError, ValueError):
    """A value that looks like a secret; a ValueError too, so that pydantic names the field."""


def refuse_secret(field: str, name: str, value: str, instead: str) -> None:
    """Raises SecretFound, without showing the value, when a name or a value is that of a secret."""
    what = "its name is that of a secret" if value and _NAME.search(name) else ""
    what = what or next((f"it holds {kind}" for kind, found in _VALUES.items() if found.search(value)), "")
    if what:
        raise SecretFound(f"{field} looks like a secret ({what}), and would be printed: {instead}")


def refuse_secrets_in(value: Any, where: str) -> None:
    """Look through nested data, by value; names of a recipe's fields are ours."""
    for field, text in _texts(value, where):
        refuse_secret(field, "", text, "take it out; credentials come from the environment or a Kubernetes Secret")


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}.{index}")
