"""Recognize secrets by name and by value: refused where they would be printed, masked in what is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"(pass(word|wd|phrase)|secret|token|credential|api_?key|access_?key|private_?key|cookie)", re.I)
VALUES = {
    "a presigned address": re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.I),
    "an address with a password": re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a token": re.compile(r"\b(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|hf_\w{20,}|gh[pousr]_\w{20,}|glpat-[\w-]{20,})"),
}
MASK = "***"
SHORTEST = 8  # characters: a shorter value is no secret worth the name, and may be a common word
_SIGNED = re.compile(r"([?&](?:X-Amz-[\w-]+|X-Goog-[\w-]+|Signature|sig|AWSAccessKeyId|Policy)=)[^&\s\"']+", re.I)
_KEY_BLOCK = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[^\s'\",]+", re.I)


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name holds a secret. Ids are none: every tool prints them."""
    return name == "SIDA_WEBHOOK" or bool(NAME.search(name) and not name.upper().endswith("_ID"))


def masked(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` without the values of secret variables, and without other parts that look like a secret.

    >>> masked("key s3cr3t-key of https://me:pw@host", {"AWS_SECRET_ACCESS_KEY": "s3cr3t-key"})
    'key *** of https://***@host'
    """
    secrets = {value for name, value in variables.items() if is_secret_name(name) and len(value) >= SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _KEY_BLOCK.sub(rf"\1{MASK}\2", text)
    text = _SIGNED.sub(rf"\1{MASK}", text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = VALUES["an address with a password"].sub(f"://{MASK}@", text)
    text = VALUES["an AWS access key"].sub(MASK, text)
    return VALUES["a token"].sub(MASK, text)
