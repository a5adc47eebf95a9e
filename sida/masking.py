"""Recognize secrets by name and by value: refused where they would be kept or printed, masked in what is.

This file alone decides what a secret looks like.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

MASK = "***"
SHORTEST = 8  # characters: a shorter value is no secret worth the name, and may be a common word
_NAME = re.compile(
    r"pass(?:word|wd|phrase)|secret|token|credential|(?:api|access|private)[_-]?key|cookie|webhook", re.I
)
_FIELD = re.compile(  # of a query
    _NAME.pattern
    + r"|(account|shared)_?key|signature|authori[sz]ation|^x-(amz|goog)-"
    + r"|(^|[^a-z])(key|sig|auth|jwt|sas|pwd|pw|pass|session|code|policy)([^a-z]|$)",
    re.I,
)
# What stands in an address may be percent-encoded, once or more often, where the address is itself part of another.
_AT, _COLON, _SLASH = r"(?:@|\uff20|%(?:25)*40)", r"(?::|\uff1a|%(?:25)*3a)", r"(?:[/\\]|%(?:25)*(?:2f|5c))"
_SEPARATOR = r"(?:%(?:25)*(?:3f|26|3b|23)|\\{1,4}(?:u00|x)(?:3f|26|3b|23))"  # the latter in JSON, and in escapes
_EQUALS = r"(?:[=\ufe66\uff1d]|%(?:25)*3d|\\{1,4}(?:u00|x)3d)"
_MARKS = r"?&;#|\u061f\ufe56\uff03\uff06\uff1b\uff1f"
_UNSEEN = r"\u200b-\u200f\u2060\ufeff"  # what comes along when a text is copied
_SCHEME = (  # whosever it is, with slips of the pen; of files it is no sign of a login
    r"(?:s3[an]?|gc?s|azure|az|abfss?|adls?|wasbs?|oss|r2|b2|minio|cosn?|obs|bos|tos|swift|(?:web)?hdfs|https?|hptts?|htt?s?"
    r"|ht+ps?|s?ftps?|ssh|scp|hf|dbfs|recipes)"
)
_NO_LOGIN = r"(?!\*\*\*@|git@)"  # masked already; the user of every forge
_AT_HOST = rf"{_AT}(?!sha\d+\b)"  # and not the digest of an image
_LOGINS = (
    # behind ://, or what somebody wrote in its place; a password may hold a slash that should have been percent-encoded
    re.compile(
        rf"(?P<before>{_COLON}\s?{_SLASH}{{2}}|(?<=\w\w)(?<!file)(?:[;|]|{_COLON}){{1,2}}{_SLASH}{{1,8}}"
        rf"|(?<![\w.+:;|,=-]){_SCHEME}(?:\s?(?:[;|,=]|{_COLON}){_SLASH}{{0,8}}|\s?[^\w\s@/\\-]{{1,3}}{_SLASH}{{1,8}}|{_SLASH}{{2,8}}))"
        rf"{_NO_LOGIN}(?P<login>(?:(?!{_SLASH}|%(?:25)*3f)[^?#\s\"<>]){{0,400}}"
        rf"|(?!\[)(?:(?!{_COLON})[^/?#\s@\"<>]){{1,200}}{_COLON}(?!\d*(?:[/?#\s\"'<>]|{_SLASH}|$)|{_SLASH})[^\s@\"<>]{{1,200}})"
        rf"{_AT_HOST}",
        re.I,
    ),
    # user:password@host alone, but not 12:30@noon, nor a label before a mail's address
    re.compile(
        rf"(?P<before>(?<![\w.%+~$!*@/:-])(?:(?:{_SCHEME}|file){_COLON}?{_SLASH}{{1,3}})?|(?<=//)|(?<=[\s\"'=(]/)|(?<=%2f))"
        rf"(?!(?:mailto|e-?mail|sips?|xmpp|acct|contact|authors?|maintainers?):[^:\s]+@|(?:[\d-]+T)?\d{{1,2}}:\d\d(?::\d\d[.,\d]*)?Z?@|[^\s:]{{1,40}}:\d[\d.]*@\d+[a-z%]?\b(?!\.))"
        rf"{_NO_LOGIN}(?P<login>[\w.%+~$!*@-]{{1,200}}?{_COLON}(?![/\\'\"]|\*\*\*@|git@)[^\s/\"<>]{{1,300}})"
        rf"{_AT_HOST}(?=[\w\[*$])",
        re.I,
    ),
    # with spaces in it, but not a port before prose
    re.compile(
        rf"(?P<before>{_COLON}{_SLASH}{{2}}){_NO_LOGIN}"
        rf"(?P<login>(?:[^\s:/?#@\"'<>]{{1,100}}[ ]){{0,2}}[^\s:/?#@\"'<>]{{0,100}}:(?!(?:\d+|port)\b)"
        rf"[^\s:/?#@\"'<>]{{1,100}}(?:[ ][^\s:/?#@\"'<>]{{1,100}}){{0,2}}){_AT_HOST}(?=[\w\[$])",
        re.I,
    ),
)
_WHOLE = re.compile(r"://(?P<login>[^/?#]+)@")  # of a variable that is an address: whatever stands there
_QUERY = re.compile(
    rf"((?:[{_MARKS}]|{_SEPARATOR})((?:[\w.~+$()/\[\]{_UNSEEN}-]|%(?!(?:25)*(?:3d|3f|26|3b|23))){{1,80}})"
    rf"{_EQUALS}['\"]?)(?!\*\*\*)((?:(?!{_SEPARATOR})[^{_MARKS}\s\"'<>])+)",
    re.I,
)
# Behind any other mark, or none: NAME=value of an unmistakable name, and not of an ordinary word or a number. An address has a few
# names more, though not those that folders have (key=a/session=b).
_IN_PATH = re.compile(_NAME.pattern + r"|signature|^x-(amz|goog)-|^(sig|sas|jwt)$", re.I)
_PAIR = re.compile(
    rf"((?<![a-z0-9_-])([a-z0-9_-]{{0,40}})(\s?{_EQUALS}\s?)['\"]?)(?![$*<{{]|\d+\b)([^{_MARKS}\s\"'<>,()]{{{SHORTEST},}})",
    re.I,
)
# In JSON, and as a word of a command after an option; both also in a text of JSON, where quotes have backslashes before them.
_QUOTE = r"(?:\\{0,7}[\"'])"
_SECRET_NAME = (  # and not of what only says where one is, or of which kind
    rf"[\w.-]{{0,60}}?(?:{_NAME.pattern})[\w.-]{{0,60}}(?<!tokens)(?<!names)(?<!name)(?<!file)(?<!path)"
    r"(?<!variable)(?<!type)(?<!ur[il])(?<![_-]id)(?<!refs)(?<!ref)(?<!pull[_-]secret)(?<!pullsecret)"
)
_ENDS = r"(?![^\s\"'\\,;:)\]])"
_PLACEHOLDER = rf"\*\*\*|\$\{{?\w{{1,80}}\}}?{_ENDS}|<[\w -]{{1,80}}>{_ENDS}|\{{\w{{0,80}}\}}{_ENDS}"
_JSON = re.compile(
    rf"((?<!\\)({_QUOTE})({_SECRET_NAME}|auth)\2\s{{0,9}}:\s{{0,9}}b?(?:(\\{{1,7}}[\"'])|([\"'])))"
    # Where the quote is plain, a backslash goes with what follows, which may be another one before the end.
    rf"(?!{_PLACEHOLDER})(?(5)(?:\\[^\n]|(?!\5)[^\n\\]){{{SHORTEST},}}|(?:(?!(?<!\\)\4)[^\n]){{{SHORTEST},}})",
    re.I,
)
_OPTION = re.compile(
    rf"((?<![\w-])(--?{_SECRET_NAME})(?:{_QUOTE}\s{{0,9}},\s{{0,9}}|\s{{1,9}})({_QUOTE})?)"
    rf"(?!{_PLACEHOLDER}|-|\d+\b|(?-i:[A-Z_]+){_ENDS})"
    rf"(?(3)(?:(?!(?<!\\)\3)[^\n]){{{SHORTEST},}}|(?:[^\s\"'\\]|\\(?!\\{{0,6}}[\"'])){{{SHORTEST},}})",
    re.I,
)
_ENTRY = re.compile(  # of YAML, or of a log; with a digit in it, since words stand behind a colon too
    r"((?<![\w.\"'-])([A-Z0-9_]{0,40}(?:SECRET|TOKEN|PASSWORD|PASSWD|(?:ACCESS|API|PRIVATE)_KEY)[A-Z0-9_]{0,40}"
    r"(?<!_NAME)(?<!_FILE)(?<!_PATH)(?<!_ID)(?<!_URL)|(?i:password|passwd)):[ \t]{1,9}['\"]?)"
    rf"(?!{_PLACEHOLDER})(?=[^\s\"']{{0,200}}\d)[^\s\"']{{{SHORTEST},}}"
)
_COOKIE = re.compile(r"((?<![\w-])cookie['\"]?\s{0,9}:\s{0,9}['\"]?)(?=[^\s=;,'\"*]{1,200}=)[^\n'\",]+", re.I)
_KEY_BLOCK = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?!\*\*\*).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_HEADER = re.compile(
    r"((?:authorization['\"]?\s*[:=]\s*['\"]?(?!(?:\w+\s+)?\*\*\*)(?:\w+\s+)?"
    r"|(?:set-cookie|x-(?:(?:amz|goog)-(?:security-token|signature|credential)|(?:api|auth)-(?:key|token)))"
    r"['\"]?\s*[:=]\s*['\"]?(?!\*\*\*)))[^\s'\",]+",
    re.I,
)
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
    if any(pattern.search(text) for pattern in _LOGINS):
        return "an address with a login"
    if named := next((match for match in _QUERY.finditer(text) if _is_secret_field(match)), None):
        return f"an address with {_unquoted(named[2])}="
    if named := next((match for match in _PAIR.finditer(text) if _is_secret_pair(match)), None):
        return f"{named[2]}="
    if named := _JSON.search(text):
        return f'"{named[3]}":'
    if named := _ENTRY.search(text):
        return f"{named[2]}:"
    if named := _OPTION.search(text):
        return named[2]
    if _KEY_BLOCK.search(text):
        return "a private key"
    if _HEADER.search(text) or _COOKIE.search(text):
        return "an authorization"
    return next((kind for kind, pattern in _VALUES.items() if pattern.search(text)), "")


_sent: frozenset[str] = frozenset()


def hide(headers: Mapping[str, str]) -> None:
    """Have the credentials among a request's headers masked by value from now on: whoever answers may repeat them."""
    global _sent
    values: set[str] = set()
    for name, value in headers.items():
        if name.lower() == "cookie":
            values |= {part.partition("=")[2] for part in value.split(";")}
        elif re.search("authorization", name, re.I) or is_secret_name(name):
            word = value.split(" ")[-1]
            values |= {value, word}
            with suppress(ValueError):  # binascii's errors, and of bytes that are no text, are such
                values.add(b64decode(word, validate=True).decode().partition(":")[2])
    _sent |= {value for value in values if len(value) >= SHORTEST}


def masked(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` without the values of secret variables, credentials that were sent, and other parts that look like a secret.

    >>> masked("key s3cr3t-key of https://me:pw@host/?a=1&token=2", {"AWS_SECRET_ACCESS_KEY": "s3cr3t-key"})
    'key *** of https://***@host/?a=1&token=***'
    """
    secrets = {value for name, value in variables.items() if is_secret_name(name)}
    texts = [value for value in variables.values() if "@" in value]
    for login in (
        found["login"] for text_ in texts for pattern in (*_LOGINS, _WHOLE) for found in pattern.finditer(text_)
    ):
        secrets |= {word for part in login.split(":", 1) for word in (part, unquote(part))}
    for value in sorted((value for value in secrets | _sent if len(value) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _KEY_BLOCK.sub(rf"\1{MASK}\2", text)
    for pattern in _LOGINS:
        text = pattern.sub(rf"\g<before>{MASK}@", text)
    text = _QUERY.sub(lambda match: f"{match[1]}{MASK}" if _is_secret_field(match) else match[0], text)
    text = _PAIR.sub(lambda match: f"{match[1]}{MASK}" if _is_secret_pair(match) else match[0], text)
    for pattern in (_JSON, _ENTRY, _OPTION, _HEADER, _COOKIE):
        text = pattern.sub(rf"\1{MASK}", text)
    for pattern in _VALUES.values():
        text = pattern.sub(MASK, text)
    return text


def without_secrets(value: Any) -> Any:
    """Return a copy of nested fields, as JSON has them, with texts and keys masked."""
    if isinstance(value, dict):
        return {
            without_secrets(key): MASK if _is_secret_item(key, item) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return masked(value, {}) if isinstance(value, str) else value


def _is_secret_item(key: Any, item: Any) -> bool:
    """Return whether an item of a JSON object is a secret by its name; what ``masked`` hides where it is a text."""
    return isinstance(key, str) and isinstance(item, str) and bool(_JSON.match(f'"{key}":"{item}"'))


def _is_secret_field(match: re.Match[str]) -> bool:
    return bool(_FIELD.search(_unquoted(match[2])))


def _is_secret_pair(match: re.Match[str]) -> bool:
    name = match[2].lower()[2 * (match.string[max(0, match.start() - 1) : match.start()] == "%") :]  # behind %2C
    if name.endswith(("tokens", "_id", "webhook")):
        return False
    before = match.string[max(0, match.start() - 2000) : match.start()]
    if "://" in before[max(map(before.rfind, " \t\n")) + 1 :]:
        return bool(_IN_PATH.search(name))
    return match[3].strip() == match[3] and bool(_NAME.search(name))


def _unquoted(name: str) -> str:
    """Return a name as it is meant: without percent-encoding, however often it was encoded, and in plain letters."""
    name = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    while (plain := unquote(name)) != name:
        name = plain
    return name
