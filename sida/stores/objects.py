"""Content-addressed objects: writing one twice is harmless, and reading one proves it."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path

from sida.errors import Corrupt, NotFound, UserError
from sida.settings import settings
from sida.stores.base import ObjectRef, ObjectStore, absent, damaged
from sida.stores.cache import fetch_through_cache, state_of

UNKNOWN_BYTES = 256 << 20  # takes a fraction of a second to hash
SETTLED = 60 * 10**9  # nanoseconds between the last byte of a file and its final name
WRITTEN = "written "  # before the state of a file that this machine wrote and has not read back


class HashingReader(io.FileIO):
    """Reader of a file that refuses to end unless its bytes have the sha256: then nothing is published."""

    def __init__(self, path: Path, sha256: str) -> None:
        super().__init__(path)
        self._expected, self._size, self._hash = sha256, path.stat().st_size, hashlib.sha256()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek to the beginning, for a store that tries again, or to the end, for one that asks the size."""
        assert offset == 0 and whence in (os.SEEK_SET, os.SEEK_END), "content is hashed from its beginning"
        self._hash = hashlib.sha256()
        return super().seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self._hash.update(block)
        if (self.tell() >= self._size or not block) and self._hash.hexdigest() != self._expected:
            raise UserError(f"{self.name} changed while being stored: run again when nothing writes it")
        return block


def sha256_of(source: bytes | Path) -> tuple[str, int]:
    """Return digest and size in bytes; raise UserError when the file cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error


def put_object(store: ObjectStore, source: bytes | Path, name: str = "") -> ObjectRef:
    """Store bytes or a file under their content's key and say where; damaged bytes that are there are replaced.

    Whether written or found, the object counts as written now, so that ``gc`` sees that somebody wants it.
    Raises UserError when the file cannot be read or changes meanwhile, and the store's own errors.
    """
    name = name or (source.name if isinstance(source, Path) else "")
    digest, size = sha256_of(source)
    ref = ObjectRef(name, size, digest)
    with suppress(NotFound, Corrupt):
        if store.touch(ref.key):
            _verify_and_mark(store, ref)
            return ref
    if isinstance(source, bytes):
        store.put(ref.key, source)
    else:
        with HashingReader(source, digest) as file:
            store.put(ref.key, file)
    _mark(ref, WRITTEN + _state(store, ref))
    return ref


def intact(store: ObjectStore, ref: ObjectRef, etag: str | None) -> bool:
    """Return whether the object is as it was when it had ``etag``: by that, or by its bytes. Raises NotFound.

    By its bytes also where its file, whose time of writing may have been set back, is not as this machine remembers it. Where it
    remembers nothing: those of up to ``UNKNOWN_BYTES``, and larger ones whose file was changed in any way since its last byte was
    written, by the time of change that nobody can set.
    """
    stat = store.stat(ref.key)
    if stat.size != ref.size:
        return False
    state, remembered = _state(store, ref), _mark_of(ref).removeprefix(WRITTEN)
    known = remembered == state if remembered else ref.size > UNKNOWN_BYTES and not _changed_since(store, ref)
    if stat.etag == etag and (known or not state):
        return True
    try:
        _verify_and_mark(store, ref)
    except Corrupt:
        return False
    return True


def verify_object(store: ObjectStore, ref: ObjectRef) -> None:
    """Read an object whole and compare its size and sha256; raise Corrupt or NotFound."""
    digest, size = hashlib.sha256(), store.stat(ref.key).size
    if size != ref.size:  # whatever it is, it need not be read, however large
        raise damaged(store, ref, "", size)
    for block in store.blocks(ref.key, 0, size):
        digest.update(block)
    if digest.hexdigest() != ref.sha256:
        raise damaged(store, ref, digest.hexdigest(), size)


def fetch_object(store: ObjectStore, ref: ObjectRef) -> Path:
    """Return a local, verified, read-only file with the object's bytes.

    A folder store answers with its own file, hashed the first time this machine meets it. Other stores are
    read through a cache of limited size (SIDA_CACHE), safe for many processes.
    Raises Corrupt, NotFound, StoreError, UserError (disk full).
    """
    path = store.local_path(ref.key)
    if path is not None:
        return _verify_once(store, ref, path)
    return fetch_through_cache(store, ref, settings().cache, settings().cache_bytes)


def _verify_once(store: ObjectStore, ref: ObjectRef, path: Path) -> Path:
    """Hash a stored file unless it was hashed since it was last written."""
    if not path.exists():
        raise absent(store.address_of(ref.key))
    if _mark_of(ref) != _state(store, ref):
        _verify_and_mark(store, ref)
    return path


def _verify_and_mark(store: ObjectStore, ref: ObjectRef) -> None:
    seen = _state(store, ref)
    verify_object(store, ref)
    _mark(ref, seen)


def _state(store: ObjectStore, ref: ObjectRef) -> str:
    """Return how the object's file is; empty where the store has no files."""
    path = store.local_path(ref.key)
    with suppress(OSError):
        return state_of(path) if path else ""
    return ""


def _changed_since(store: ObjectStore, ref: ObjectRef) -> bool:
    path = store.local_path(ref.key)
    if path is None:
        return False
    with suppress(OSError):
        status = path.stat()
        return status.st_ctime_ns - status.st_mtime_ns > SETTLED
    return True


def _marker(ref: ObjectRef) -> Path:
    """Return the file in this machine's cache that tells how an object's file was when its bytes were verified or written."""
    return settings().cache / "verified" / ref.sha256


def _mark(ref: ObjectRef, state: str) -> None:
    with suppress(OSError):  # a cache that cannot be written, or half a marker, only costs another hashing
        if state not in ("", WRITTEN):
            _marker(ref).parent.mkdir(parents=True, exist_ok=True)
            _marker(ref).write_text(state)


def _mark_of(ref: ObjectRef) -> str:
    """Return how the object's file was, after ``WRITTEN`` where its bytes were never read back; empty where nobody knows."""
    with suppress(OSError, ValueError):
        return _marker(ref).read_text()
    return ""
