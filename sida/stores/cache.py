"""A read-through cache of remote objects: one folder, limited in size, shared by all processes of a machine.

    objects/<sha256><suffix>       whole objects, read-only
    verified/<sha256><suffix>      how the file of that name was when its bytes were verified (``state_of``)
    objects/<sha256><suffix>.part  the beginning of one; a later download goes on from there
    downloads/<sha256>             locked by the process that downloads, so that one does and others wait
    fetched/<sha256>/<name>        whole, verified files that recipes name by address (sida.foreign.fetch)
    fetched/<address>.part, .lock  the beginning of one, and the lock of the process that downloads it
    users/<pid>-<random>           locked by a process for its life: files given to it are not evicted
    lock                           locked while objects are evicted or given out

The least recently used go first, objects and files alike, by access time, set here at every use: many disks do not keep it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sida.disk import CODES
from sida.errors import SidaError, StoreError, StoreUnusable, UserError
from sida.stores.base import BLOCK_BYTES, ObjectRef, ObjectStore, damaged

READ_ONLY = 0o444
_users: dict[Path, int] = {}  # by cache folder: descriptor of this process's list of what it uses


def fetch_through_cache(store: ObjectStore, ref: ObjectRef, folder: Path, limit_bytes: int) -> Path:
    """Return the verified local copy of an object, downloaded unless it exists; then evict old objects.

    Raises Corrupt when it has another size, or two whole downloads had another sha256, UserError when the disk is full,
    StoreUnusable when the cache cannot be written, and the store's errors.
    """
    name = ref.key.rpartition("/")[2]
    path = folder / "objects" / name
    try:
        make_folders(folder)
        if give_out(folder, path, ref.sha256):
            return path
        with _locked(folder / "downloads" / ref.sha256):
            if not give_out(folder, path, ref.sha256):
                if (size := store.stat(ref.key).size) != ref.size:  # whatever it is, nothing else has to go for it
                    raise damaged(store, ref, "", size)
                make_room(folder, ref.size, limit_bytes)
                _download(store, ref, path)
                give_out(folder, path, ref.sha256)
        return path
    except OSError as error:
        raise _cache_error(folder, error) from error


def _download(store: ObjectStore, ref: ObjectRef, path: Path) -> None:
    """Continue the download of an earlier, killed process; start anew once if the whole then proves wrong."""
    part = path.with_name(f"{path.name}.part")
    for _ in range(2):
        digest = hashlib.sha256()
        with part.open("a+b") as file:
            if file.tell() > ref.size:
                file.truncate(0)
            file.seek(0)
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            done = file.tell()
            for block in store.blocks(ref.key, done, ref.size):
                # Small pieces are hashed while still in the processor's cache, and are spared the huge pages that Linux takes
                # for large writes: twice the speed of whole blocks where a virtual machine has to ask its host for those.
                for start in range(0, len(block), BLOCK_BYTES):
                    piece = memoryview(block)[start : start + BLOCK_BYTES]
                    digest.update(piece)
                    file.write(piece)
                done += len(block)
            file.flush()
            os.fsync(file.fileno())
        if (digest.hexdigest(), done) == (ref.sha256, ref.size):
            part.replace(path)
            path.chmod(READ_ONLY)
            _marker(path).write_text(state_of(path))
            return
        part.unlink()
    raise damaged(store, ref, digest.hexdigest(), done)


# -- files in use, and files that may go


def give_out(folder: Path, path: Path, sha256: str = "") -> bool:
    """Return whether the file is in the cache; if so it is marked as used by this process, now. Raises OSError.

    With ``sha256`` it is hashed again where it is not as it was when it was verified, and removed where it is another. Others are
    given theirs meanwhile: the lock is held to look and to decide, not to hash.
    """
    hashed = digest = ""
    while True:
        with _locked(folder / "lock"):
            try:
                seen = state_of(path)
                if not sha256 or seen == _verified_state(path) or (seen == hashed and digest == sha256):
                    _note_use(folder, path, marked=bool(sha256))
                    return True
                if seen == hashed:
                    path.unlink()  # another program wrote into the cache
                    return False
            except FileNotFoundError:
                return False
            _register(folder, path)  # it is not evicted now
        try:
            with path.open("rb") as file:
                digest, hashed = hashlib.file_digest(file, "sha256").hexdigest(), seen
        except FileNotFoundError:
            return False


def _note_use(folder: Path, path: Path, *, marked: bool) -> None:
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    if marked:
        _marker(path).write_text(state_of(path))  # the time of its use is a part of that
    _register(folder, path)


def _register(folder: Path, path: Path) -> None:
    """Write the file into the list of what this process uses."""
    users = _users.get(folder)
    if users is None:
        users = os.open(
            folder / "users" / f"{os.getpid()}-{secrets.token_hex(4)}", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        fcntl.flock(users, fcntl.LOCK_EX)  # held until this process and its forks have ended
        _users[folder] = users
    os.write(users, f"{_token(folder, path)}\n".encode())


def state_of(path: Path) -> str:
    """Return what changes whenever a file is written, even by one who keeps its size and sets back its time. Raises OSError."""
    status = path.stat()
    return json.dumps([str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size])


def _verified_state(path: Path) -> str:
    """Return how the file was when it was verified; empty where it never was."""
    with suppress(FileNotFoundError, ValueError):
        return _marker(path).read_text()
    return ""


def _marker(path: Path) -> Path:
    return path.parent.parent / "verified" / path.name


def keep_fetched(folder: Path, part: Path, path: Path) -> None:
    """Rename a finished download to its final name, used by this process. Raises OSError."""
    with _locked(folder / "lock"):  # or an eviction could take its folder, still empty
        path.parent.mkdir(exist_ok=True)
        part.replace(path)
        path.chmod(READ_ONLY)
    give_out(folder, path)


def make_room(folder: Path, size: int, limit_bytes: int) -> None:
    """Remove the least recently used files until ``size`` more bytes fit; those of live processes stay. Raises OSError."""
    make_folders(folder)
    with _locked(folder / "lock"):
        used = _in_use(folder)
        entries = []
        for path in (*folder.glob("objects/*"), *folder.glob("fetched/*.part"), *folder.glob("fetched/*/*")):
            with suppress(FileNotFoundError):  # a download has just been renamed
                status = path.stat()
                entries.append((status.st_atime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries) + size
        for _, freed, path in sorted(entries):
            if total <= limit_bytes:
                return
            if _token(folder, path) in used or _is_downloading(folder, path):
                continue
            with suppress(FileNotFoundError):
                path.unlink()
            if path.parent.name == "objects":
                _marker(path).unlink(missing_ok=True)
            elif path.parent.name == "fetched":
                path.with_name(f"{path.name}.json").unlink(missing_ok=True)  # which version it is the beginning of
            elif path.parent.parent.name == "fetched":
                with suppress(OSError):  # another file of the same content
                    path.parent.rmdir()
            total -= freed


def make_folders(folder: Path) -> None:
    """Create the cache's folders. Raises OSError."""
    for part in ("objects", "verified", "downloads", "fetched", "users"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def _token(folder: Path, path: Path) -> str:
    """Return a file's name in the lists of users: an object's, or the digest of a fetched file (whose name may hold blanks)."""
    return path.name if path.parent == folder / "objects" else path.parent.name


def _is_downloading(folder: Path, path: Path) -> bool:
    if path.suffix != ".part":
        return False
    if path.parent == folder / "fetched":
        return _is_locked(path.with_suffix(".lock"))
    return _is_locked(folder / "downloads" / path.name[:64])


def _in_use(folder: Path) -> set[str]:
    """Return the names given out to live processes; remove the lists of others."""
    names: set[str] = set()
    for path in list((folder / "users").iterdir()):
        if _is_locked(path):
            names.update(path.read_text().split())
        else:
            path.unlink(missing_ok=True)
    return names


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_locked(path: Path) -> bool:
    """Return whether a process (this one too) holds a lock on the file; False when there is none."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _cache_error(folder: Path, error: OSError) -> SidaError:
    if error.errno in CODES:
        free = shutil.disk_usage(folder).free >> 20
        return UserError(f"disk full while writing the cache {folder} ({free} MiB free): free space or set SIDA_CACHE")
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
        return StoreUnusable(f"the cache {folder} cannot be written ({error.strerror}): set SIDA_CACHE to a folder")
    return StoreError(f"the cache {folder} failed: {error.strerror}")
