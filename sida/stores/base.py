"""Interface of a store. A key is a relative path (``steps/score/ab12/1.json``) under the store's root; see ``sida.layout``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from sida.errors import Corrupt, NotFound, UserError
from sida.layout import object_key, place_of

BLOCK_BYTES = 1 << 20
RECORD_BYTES = 64 << 20  # of what is read whole: the largest, moments of 2048 features, have half
RESERVED = ".tmp"  # first part of keys that a store keeps for itself


@dataclass(frozen=True)
class Stat:
    """Facts about an object: ``size`` in bytes; a different ``etag`` means other content (compare, never interpret).

    ``written``, of ``stat`` alone, is another text after every write or ``touch``, whatever the content.
    """

    size: int
    etag: str
    written: str = field(default="", compare=False)


@dataclass(frozen=True)
class ObjectRef:
    """Content-addressed object: its file name for people, size in bytes, sha256 as 64 hex digits.

    Raises ValueError for a name that could lead somewhere as a path: most names were read from a store.
    """

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.name in (".", "..") or re.search(r"[/\\\x00]", self.name):
            raise ValueError(f"{self.name!r} is not the name of a file")

    @property
    def key(self) -> str:
        return object_key(self.sha256, self.name)


class ObjectStore(Protocol):
    """Flat space of keys. Writes are all or nothing: no reader ever sees half an object.

    All methods raise UserError for a malformed key, StoreUnusable when the store cannot be used as
    configured, Unavailable when it stays away (sida.patience), StoreError when it fails, and NotFound where a
    key that must exist does not.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    @property
    def address(self) -> str:
        """Address of the root, fit to be printed: no user, password or query."""

    def address_of(self, key: str) -> str:
        """Return the full address of a key, fit to be printed."""
        return f"{self.address.rstrip('/')}/{check_key(key)}"

    def read(self, key: str, offset: int = 0, length: int | None = None, *, most: int = RECORD_BYTES) -> bytes:
        """Return all bytes from ``offset`` on, or up to ``length`` of them.

        Raises Corrupt where all are more than ``most``: large objects are read in ``blocks``.
        """

    def blocks(self, key: str, offset: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a large object of ``size`` bytes from ``offset`` on, in order."""

    def put(self, key: str, source: bytes | BinaryIO) -> Stat:
        """Write or replace. A file object is read from where it stands to its end."""

    def put_if_absent(self, key: str, content: bytes) -> Stat:
        """Create a small object; of any number of racing creators exactly one wins. Raises AlreadyExists."""

    def stat(self, key: str) -> Stat: ...

    def age(self, key: str) -> float:
        """Return seconds since it was last written, by the store's own clock; it may be a second off."""

    def touch(self, key: str) -> bool:
        """Make an object count as written now, its etag as it was; return False where only writing it again does that."""
        return False

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return all keys that begin with ``prefix`` (a string, not a folder), sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; a key that does not exist is no error."""

    def local_path(self, key: str) -> Path | None:
        """Return the object's own file if the store is a folder, else None. Treat it as read-only."""
        return None


def absent(address: str) -> NotFound:
    """Return the error for an address at which nothing is."""
    kept = ": bring it back from a copy of the store, or run its recipe again, which makes it anew"
    return NotFound(f"no object at {address}{kept if place_of(address)[1] else ''}")


def damaged(store: ObjectStore, ref: ObjectRef, sha256: str, size: int) -> Corrupt:
    """Return the error for an object that has this content instead of its own; ``sha256`` is empty where the size says enough."""
    found = f"{size} bytes of sha256 {sha256[:12]}" if sha256 else f"{size} bytes"
    return Corrupt(
        f"{store.address_of(ref.key)} ({ref.name or 'unnamed'}) is damaged: {found}, "
        f"expected {ref.size} of {ref.sha256[:12]}; delete it and rerun its step"
    )


def too_large(store: ObjectStore, key: str, most: int) -> Corrupt:
    """Return the error for an object that is larger than any of its kind: it is not read."""
    return Corrupt(f"{store.address_of(key)} is larger than {most:,} bytes, so it is no record of sida's: remove it")


# -- keys and addresses


def is_key(text: str) -> bool:
    """Return whether a text is a relative path of plain parts, not the store's own."""
    parts = text.split("/")
    plain = not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\x00-\x1f\x7f]", text)
    return plain and parts[0] != RESERVED


def check_key(key: str) -> str:
    """Return ``key`` if it is one; raise UserError otherwise."""
    if not is_key(key):
        raise UserError(f"{key!r} is not an object key: write a relative path such as steps/score/1.json")
    return key
