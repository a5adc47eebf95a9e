"""Addresses of files, folders and stores, read in one place: which scheme they have, and whether they can be meant.

file:///folder/file    s3://bucket/key    https://host/file    recipes://assets/file    a path
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sida.errors import UserError
from sida.masking import MASK, masked, secret_in
from sida.printing import one_line

SCHEMES = ("file", "s3", "http", "https", "recipes")
FILE = "file://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OTHERS = (  # schemes of others, and slips of the pen
    r"gc?s|s3[an]|oss|r2|b2|minio|cosn?|obs|(?:web)?hdfs|abfss?|wasbs?|adls?|az(?:ure)?|dbfs|hf|ssh|scp|s?ftps?|ht+ps?|htt?s|fiel"
)
# One of these, and then a mark where :// should be: "s3:/bucket", "s3//bucket", "s3\:/bucket", "s3=/bucket", "oss:bucket". A
# folder may still be called s3, s3-copy, s3.old or "file (1)", and a:b.
_NEARLY = re.compile(
    rf"(?:{'|'.join(SCHEMES)}|{_OTHERS})(?:\s*[=-]?[^\w\s./()\[\]{{}}+~@#%&=-]|-*[^\w/-]+[/\\]|\s*%(?:25)*3a|[^\w-]?//)"
    rf"|[a-z][a-z0-9+.-]{{0,15}}[^\w/]{{0,2}}[:;][^\w/\\]?[/\\]|.*://|~|\$",
    re.I,
)
_COLONS = str.maketrans(dict.fromkeys("\u02d0\u0589\u05c3\u2236\ua789", ":") | dict.fromkeys("\u2044\u2215\u29f8", "/"))
_AROUND = " \t'\"`<([{\u2018\u2019\u201c\u201d"  # what comes along when an address is copied
_MISTYPED_LOGIN = re.compile(r"^([\w+.-]*\s*\W{0,3})[^/@]*@")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PATH = ("/", "./", "../")  # what begins so is a path, whatever follows
_LONGEST, _LONGEST_NAME = 4096, 255  # bytes; file systems take no longer names


def checked(address: str, what: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """Return an address with its scheme in small letters, or a path as it is; ``what`` names it in messages, such as SIDA_STORE.

    Raises UserError for what cannot be meant: another scheme or none that is spelt right, no host, a port that is none, a secret,
    names that no disk or server takes.

    >>> checked("S3://bucket/Prefix", "store"), checked("runs/store", "store")
    ('s3://bucket/Prefix', 'runs/store')
    """
    match = _SCHEME.match(address)
    scheme = match[1].lower() if match else ""
    forms = ", ".join(f"{name}://..." for name in schemes)
    if scheme not in ("", *schemes) or (not scheme and nearly_one(address)):
        raise UserError(
            f"{what} {shown(address)!r} is no address that is known: write {forms}, or ./NAME, which is always a folder or file"
        )
    if not address.strip():
        raise UserError(f"{what} is empty: write {forms} or a path")
    if match:
        address = f"{scheme}://{address[match.end() :]}"
    if scheme != "file" and not address.startswith(_PATH) and (secret := secret_in(address)):
        raise UserError(
            f"{what} {shown(address)} looks like {secret}, and addresses are kept and printed: take it out; credentials come from "
            f"the environment or a Kubernetes Secret"
        )
    if problem := _problem(scheme, address):
        raise UserError(f"{what} {shown(address)!r}: {problem}")
    return address


def nearly_one(text: str) -> bool:
    """Return whether an address with a scheme was meant, though it is not spelt as one."""
    plain = unicodedata.normalize("NFKC", text).translate(_COLONS)
    plain = "".join(char for char in plain if unicodedata.category(char) != "Cf").lstrip(_AROUND)
    return not plain.startswith(("./", "../")) and bool(_NEARLY.match(plain))


def local_path(text: str, what: str) -> Path:
    """Return the path of a file or folder on this machine. Raises UserError for an address of anything else."""
    return Path(checked(text, what, ("file",)).removeprefix(FILE))


def redact(address: str) -> str:
    """Return an address without user, password, query and fragment; folders, which may hold '?', stay as is.

    >>> redact("https://me:secret@host:9000/bucket?token=1")
    'https://host:9000/bucket'
    """
    if address.startswith((FILE + "/", *_PATH)):
        return address
    if "://" not in address:
        return masked(_MISTYPED_LOGIN.sub(rf"\1{MASK}@", address) if nearly_one(address) else address, {})
    try:
        parts = urlsplit(masked(address, {}))
    except ValueError:
        return f"{address.split('://')[0]}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def shown(address: str) -> str:
    """Return an address as messages have it: in one line, without secrets, not longer than there is room."""
    return one_line(redact(address), 120)


def _problem(scheme: str, address: str) -> str:
    """Return what is wrong with an address of a known scheme, and what to do; empty for one that is right."""
    if _UNPRINTABLE.search(address) or (scheme and _UNPRINTABLE.search(unquote(address))):
        return "holds a character that cannot be printed, or %00 or the like: take it out"
    if len(address.encode()) > _LONGEST:
        return f"is longer than {_LONGEST:,} characters: correct it"
    if scheme in ("", "file"):
        names = address.removeprefix(FILE).split("/")
    else:
        try:
            parts = urlsplit(address)
            wrong = parts.port == 0 or not re.fullmatch("[!-~]*", parts.netloc) or parts.netloc.endswith(":")
        except ValueError:
            wrong = True
        if wrong:
            return "its host or port is none: write host or host:port, a port from 1 to 65535"
        if not parts.hostname and scheme != "recipes":
            return (
                "names no bucket: write s3://bucket/prefix" if scheme == "s3" else "names no host: write it after ://"
            )
        names = unquote(parts.path).split("/")
        if ".." in names:
            return "leads up by '..': write where the file is"
    if any(len(name.encode(errors="replace")) > _LONGEST_NAME for name in names):
        return f"a name in it is longer than {_LONGEST_NAME} characters: shorten it"
    return ""
