"""Recognize secrets by name and by value: refused where they would be kept or printed, masked in what is.

This file alone decides what a secret looks like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

MASK = "***"
SHORTEST = 8  # characters: a shorter value is no secret worth the name, and may be a common word
_NAME = re.compile(
    r"pass(word|wd|phrase)|secret|token|credential|api_?key|access_?key|private_?key|cookie|webhook", re.I
)
_FIELD = re.compile(  # of a query
    _NAME.pattern
    + r"|signature|authori[sz]ation|^x-(amz|goog)-|(^|[^a-z])(key|sig|auth|jwt|sas|pwd|pw|pass|session|code|policy)([^a-z]|$)",
    re.I,
)
_LOGIN = re.compile(  # in an address; a password may hold a slash that should have been percent-encoded
    r"(?<=://)(?!\*\*\*@)(?:[^/?#\s\"<>]*@|(?!\[)[^/?#\s@\"<>:]{1,200}:(?!\d*(?:[/?#\s\"'<>]|$))[^\s@\"<>]{1,200}@)"
)
_QUERY = re.compile(r"([?&;#]([\w.%~-]{1,80})=)(?!\*\*\*)([^&;#\s\"'<>]+)")
_KEY_BLOCK = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[^\s'\",]+", re.I)
_VALUES = {
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(
        r"\b((?<!-)eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
        r"|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35})"
    ),
    "a login": re.compile(r"(?<=\bbearer )[\w.~+/-]{8,}=*", re.I),
    "a webhook's address": re.compile(
        r"(?<=://)(hooks\.slack\.com/|(\w+\.)?discord(app)?\.com/api/webhooks/)[^\s\"'<>]+"
    ),
}


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name holds a secret. Ids are none: every tool prints them."""
    return bool(_NAME.search(name) and not name.upper().endswith("_ID"))


def secret_in(text: str) -> str:
    """Return what secret a text seems to hold, in words; empty for none.

    >>> secret_in("https://me:secret@host/x"), secret_in("https://host/x?sig=1"), secret_in("https://host/x?download=true")
    ('an address with a login', 'an address with sig=', '')
    """
    if _LOGIN.search(text):
        return "an address with a login"
    if named := next((match for match in _QUERY.finditer(text) if _is_secret_field(match)), None):
        return f"an address with {unquote(named[2])}="
    if _KEY_BLOCK.search(text):
        return "a private key"
    return next((kind for kind, pattern in _VALUES.items() if pattern.search(text)), "")


def masked(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` without the values of secret variables, and without other parts that look like a secret.

    >>> masked("key s3cr3t-key of https://me:pw@host/?a=1&token=2", {"AWS_SECRET_ACCESS_KEY": "s3cr3t-key"})
    'key *** of https://***@host/?a=1&token=***'
    """
    secrets = {value for name, value in variables.items() if is_secret_name(name)}
    for login in (match[0].removesuffix("@") for value in variables.values() for match in _LOGIN.finditer(value)):
        secrets |= {word for part in login.split(":", 1) for word in (part, unquote(part))}
    for value in sorted((value for value in secrets if len(value) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _KEY_BLOCK.sub(rf"\1{MASK}\2", text)
    text = _LOGIN.sub(f"{MASK}@", text)
    text = _QUERY.sub(lambda match: f"{match[1]}{MASK}" if _is_secret_field(match) else match[0], text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    for pattern in _VALUES.values():
        text = pattern.sub(MASK, text)
    return text


def _is_secret_field(match: re.Match[str]) -> bool:
    return bool(_FIELD.search(unquote(match[2])))
