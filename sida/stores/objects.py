"""Content-addressed objects: writing one twice is harmless, and reading one proves it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sida.errors import Corrupt, NotFound, StoreError, UserError
from sida.settings import settings
from sida.stores.base import BLOCK_BYTES, ObjectRef, ObjectStore
from sida.stores.cache import fetch_through_cache


class HashingReader(io.RawIOBase):
    """Reader of a file that refuses to end unless its bytes have the sha256: then nothing is published."""

    def __init__(self, file: BinaryIO, sha256: str, described: str) -> None:
        self._file, self._expected, self._described = file, sha256, described
        self._size = os.fstat(file.fileno()).st_size
        self._at, self._hash = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek to the beginning, for a store that tries again, or to the end, for one that asks the size."""
        assert offset == 0 and whence in (os.SEEK_SET, os.SEEK_END), "content is hashed from its beginning"
        self._hash = hashlib.sha256()
        self._at = self._size if whence else 0
        self._file.seek(0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        self._at += len(block)
        if (self._at >= self._size or not block) and self._hash.hexdigest() != self._expected:
            raise UserError(f"{self._described} changed while being stored: run again when nothing writes it")
        return block


def sha256_of(source: bytes | Path) -> tuple[str, int]:
    """Return digest and size in bytes; raise UserError when the file cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    try:
        with source.open("rb") as file:
            return _digest(file)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error


def _digest(file: BinaryIO) -> tuple[str, int]:
    """Return sha256 and number of the bytes from here to the end."""
    digest, size = hashlib.sha256(), 0
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def put_object(store: ObjectStore, source: bytes | Path, name: str = "") -> ObjectRef:
    """Store bytes or a file under their content's key and say where; does nothing when already there.

    Raises UserError when the file cannot be read or changes meanwhile, and the store's own errors.
    """
    name = name or (source.name if isinstance(source, Path) else "")
    digest, size = sha256_of(source)
    ref = ObjectRef(name, size, digest)
    try:
        if store.stat(ref.key).size == size:
            return ref
    except NotFound:
        pass
    if isinstance(source, bytes):
        store.put(ref.key, source)
    else:
        with source.open("rb") as file:
            store.put(ref.key, HashingReader(file, digest, str(source)))  # type: ignore[arg-type]
    return ref


def verify_object(store: ObjectStore, ref: ObjectRef) -> None:
    """Read an object whole and compare its size and sha256; raise Corrupt or NotFound."""
    with store.open(ref.key) as file:
        digest, size = _digest(file)
    _compare(store, ref, digest, size)


def _compare(store: ObjectStore, ref: ObjectRef, digest: str, size: int) -> None:
    if (digest, size) != (ref.sha256, ref.size):
        raise Corrupt(
            f"{store.address_of(ref.key)} ({ref.name or 'unnamed'}) is damaged: {size} bytes of sha256 "
            f"{digest[:12]}, expected {ref.size} of {ref.sha256[:12]}; delete it and rerun its step"
        )


def fetch_object(store: ObjectStore, ref: ObjectRef, cache_dir: Path | None = None) -> Path:
    """Return a local, verified, read-only file with the object's bytes.

    A folder store answers with its own file, hashed the first time this machine meets it. Other stores are
    read through a cache of limited size in ``cache_dir`` (default: settings), safe for many processes.
    Raises Corrupt, NotFound, StoreError, UserError (disk full).
    """
    here = settings()
    cache_dir = cache_dir or here.cache
    path = store.local_path(ref.key)
    if path is not None:
        return _verify_once(store, ref, path, cache_dir)
    return fetch_through_cache(store, ref, cache_dir, here.cache_bytes)


def _verify_once(store: ObjectStore, ref: ObjectRef, path: Path, cache_dir: Path) -> Path:
    """Hash a stored file unless it was hashed since it was last written, as a marker in the cache tells."""
    try:
        before = path.stat()
    except OSError as error:
        raise NotFound(f"{store.address_of(ref.key)} ({ref.name or 'unnamed'}) is not there any more") from error
    seen = json.dumps([str(path), before.st_ino, before.st_mtime_ns, before.st_size])
    marker = cache_dir / "verified" / ref.sha256
    if before.st_size == ref.size and _read_marker(marker) == seen:
        return path
    try:
        with path.open("rb") as file:
            digest, size = _digest(file)
    except OSError as error:
        raise StoreError(f"cannot read {store.address_of(ref.key)}: {error.strerror}") from error
    _compare(store, ref, digest, size)
    _write_marker(marker, seen)
    return path


def _read_marker(marker: Path) -> str:
    try:
        return marker.read_text()
    except OSError:
        return ""


def _write_marker(marker: Path, text: str) -> None:
    """Write the marker; a cache that cannot be written only costs another hashing, so that is no error."""
    temporary = marker.with_name(f"{marker.name}.{os.getpid()}")
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(marker)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
