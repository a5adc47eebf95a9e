"""A folder as object store: the default, and enough for everything on one machine.

Bytes go to ``.tmp/`` under the root, are fsynced, and appear under their key by one rename (or, for
conditional creation, one hard link): both are atomic, so kill -9 or a full disk leaves nothing half-written.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

from sida import layout
from sida.disk import CODES
from sida.errors import AlreadyExists, SidaError, StoreError, StoreUnusable, UserError
from sida.stores.base import BLOCK_BYTES, RECORD_BYTES, RESERVED, ObjectStore, Stat, absent, check_key, too_large

ABANDONED_SECONDS = 600.0  # a temporary file of a dead process on this host
STALE_SECONDS = 86400.0  # one of any other host
DEEPEST = 100  # folders inside each other
SYSTEM = frozenset("bin boot dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var".split())  # noqa: SIM905


class FolderStore(ObjectStore):
    """Store of plain files under ``root``; the folder is created at the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._swept = False

    @property
    def address(self) -> str:
        return f"file://{self.root}"

    def refuse_foreign(self) -> None:
        """Raise StoreUnusable for a folder of something else: nothing is to be looked for, written or deleted there.

        A store has a folder of objects, steps, or ``.tmp``; whatever is empty or absent may become one. Where systems and users
        have their files, there is none beside anything else.
        """
        try:
            names = {entry.name for entry in os.scandir(self.root)}
        except OSError:
            return self._refuse_dangling(self.root)  # absent, or whoever uses it says why it cannot be
        ours = names & {*layout.FOLDERS, RESERVED}
        system = _is_the_system_s(self.root.resolve())
        foreign = [name for name in sorted(names - ours) if system or not name.startswith((".", "lost+found"))]
        if foreign and (system or not names & {RESERVED, "objects", "steps"}):
            raise StoreUnusable(
                f"{self.root} is no store of sida's: it holds {foreign[0]}: give the store's own folder, or an empty one, as "
                f"--store or SIDA_STORE"
            )

    # -- reading

    def read(self, key: str, offset: int = 0, length: int | None = None, *, most: int = RECORD_BYTES) -> bytes:
        with self._reading(key), _opened(self._path(key)) as file:
            file.seek(offset)
            if length is not None:
                return file.read(length)
            if os.fstat(file.fileno()).st_size - offset > most or len(content := file.read(most + 1)) > most:
                raise too_large(self, key, most)
            return content

    def blocks(self, key: str, offset: int, size: int) -> Iterator[bytes]:
        with self._reading(key), _opened(self._path(key)) as file:
            file.seek(offset)
            while block := file.read(BLOCK_BYTES):
                yield block

    def stat(self, key: str) -> Stat:
        path = self._path(key)
        with self._reading(key):
            status = path.stat()
        if not path.is_file():
            raise absent(self.address_of(key))
        return _stat(status, f"{status.st_ino:x}-{status.st_ctime_ns:x}")

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys. Links are followed, as by all calls; a folder that cannot be read is an error, never empty."""
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        keys: list[str] = []
        try:
            self._walk(top, (), keys)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and Path(error.filename) == top:
                self._refuse_dangling(top)
            elif isinstance(error, PermissionError):
                raise StoreUnusable(f"{error.filename} may not be read: change its permissions") from error
            else:
                raise StoreError(f"cannot list {error.filename}: {error.strerror}") from error
        return sorted(key for key in keys if key.startswith(prefix))

    def _walk(self, folder: Path, above: tuple[tuple[int, int], ...], keys: MutableSequence[str]) -> None:
        """Append the keys of all files below. Raises OSError for whatever cannot be looked at."""
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise StoreUnusable(f"{folder} is a link to a folder above it: remove the link")
        if len(above) > DEEPEST:
            raise StoreUnusable(f"{self.root} holds folders more than {DEEPEST} deep, which no store does: remove them")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == RESERVED and folder == self.root:
                    continue
                path = folder / entry.name
                if entry.is_dir():
                    self._walk(path, (*above, here), keys)
                elif entry.is_symlink() and not path.exists():
                    raise StoreUnusable(
                        f"{path} is a link that leads nowhere: mount or mend what it names, or remove it"
                    )
                elif not entry.is_file():
                    raise _no_file(path)
                else:
                    keys.append(path.relative_to(self.root).as_posix())

    def _refuse_dangling(self, path: Path) -> None:
        """Raise StoreUnusable where nothing is found only because a link on the way leads nowhere."""
        for at in (path, *path.parents):
            if at.is_symlink() and not at.exists():
                raise StoreUnusable(f"{at} is a link that leads nowhere: mount or mend what it names, or remove it")

    def age(self, key: str) -> float:
        path = self._path(key)
        with self._reading(key):
            written = path.stat().st_mtime
        return self._now() - written

    def _now(self) -> float:
        """Return the time by the clock of whatever holds the files, which may be another machine."""
        try:
            probe = self._temporary()
            try:
                probe.write_bytes(b"now")
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)
        except OSError:
            return time.time()  # it may not be written

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    # -- writing

    def put(self, key: str, source: bytes | BinaryIO) -> Stat:
        return self._write(key, source, os.replace)

    def put_if_absent(self, key: str, content: bytes) -> Stat:
        def link(temporary: Path, path: Path) -> None:
            try:
                os.link(temporary, path)
            except FileExistsError as error:
                if path.is_dir():
                    raise StoreError(
                        f"{self.address_of(key)} is a folder of other objects: it cannot be one"
                    ) from error
                # NFS may answer "exists" to the retransmission of a link that succeeded.
                if temporary.stat().st_nlink != 2:
                    raise AlreadyExists(f"{self.address_of(key)} exists already") from error
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise StoreUnusable(
                        f"the file system of {self.root} has no hard links, which conditional writes need: "
                        f"set SIDA_STORE to a folder on another disk"
                    ) from error
                raise
            temporary.unlink()

        if self.exists(key):  # a cheaper answer for the common case; the link decides
            raise AlreadyExists(f"{self.address_of(key)} exists already")
        return self._write(key, content, link)

    def touch(self, key: str) -> bool:
        path = self._path(key)
        with self._writing(key):
            try:
                status = path.stat()
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # its ctime is now
            except FileNotFoundError as error:
                raise absent(self.address_of(key)) from error
        return True

    def delete(self, key: str) -> None:
        with self._writing(key):
            self._path(key).unlink(missing_ok=True)

    def _write(self, key: str, source: bytes | BinaryIO, publish: Callable[[Path, Path], None]) -> Stat:
        path = self._path(key)
        with self._writing(key):
            temporary = self._temporary()
            try:
                with temporary.open("xb") as file:
                    shutil.copyfileobj(io.BytesIO(source) if isinstance(source, bytes) else source, file, BLOCK_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
                    written = os.fstat(file.fileno())
                new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                publish(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            for folder in (path.parent, *(made.parent for made in new)):
                _sync_folder(folder)
            return _stat(written)

    def _temporary(self) -> Path:
        folder = self.root / RESERVED
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(folder)
        return folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}"

    # -- paths and errors

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            self._refuse_dangling(self.root / key)
            raise absent(self.address_of(key)) from error
        except PermissionError as error:
            raise StoreUnusable(f"{self.address_of(key)} may not be read: change its permissions") from error
        except OSError as error:
            raise StoreError(f"cannot read {self.address_of(key)}: {error.strerror}") from error

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._write_error(key, error) from error

    def _write_error(self, key: str, error: OSError) -> SidaError:
        if error.errno in CODES:
            return UserError(f"disk full while writing {self.address_of(key)}: free space or set SIDA_STORE")
        if isinstance(error, NotADirectoryError | FileExistsError):
            blocking = next((p for p in (self.root, *self.root.parents) if p.exists() and not p.is_dir()), None)
            if blocking is not None:
                return StoreUnusable(f"{blocking} is not a folder: set SIDA_STORE to a folder, file:///folder")
        if isinstance(error, PermissionError) or error.errno == errno.EROFS or not self.root.is_dir():
            return StoreUnusable(
                f"{self.root} cannot be written ({error.strerror}): change its permissions or set SIDA_STORE "
                f"to a folder that you may write"
            )
        return StoreError(f"cannot write {self.address_of(key)}: {error.strerror}")


def _opened(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing else: a pipe would let its reader wait for ever. Raises OSError."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _no_file(path)
    return file


def _no_file(path: Path) -> StoreUnusable:
    return StoreUnusable(f"{path} is a pipe, socket or device, not a file: remove it")


def _is_the_system_s(folder: Path) -> bool:
    """Return whether a folder is the root, one that systems have there, or a user's home or above one."""
    home = Path(os.path.expanduser("~"))
    top = Path(folder.anchor)
    return folder in (top, home, *home.parents) or (folder.parent == top and folder.name in SYSTEM)


def _stat(status: os.stat_result, written: str = "") -> Stat:
    # No inode: a store that is moved with its times (cp -a, rsync -a) keeps etags and so its results.
    return Stat(status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", written)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _sweep(folder: Path) -> None:
    """Remove temporary files whose writers were killed."""
    now = time.time()
    for entry in list(os.scandir(folder)):
        host, _, rest = entry.name.rpartition("-")[0].rpartition("-")
        try:
            age = now - entry.stat().st_mtime
            dead = host == socket.gethostname() and _is_pid(rest) and not psutil.pid_exists(int(rest))
            if age > (ABANDONED_SECONDS if dead else STALE_SECONDS):
                os.unlink(entry.path)
        except OSError:
            continue  # its writer has just published it, or it is nothing of ours
