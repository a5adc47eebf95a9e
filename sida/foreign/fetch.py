"""Fetch a file that a recipe names to this machine: https, s3 or file; by the digest that the recipe pins.

Without a pinned digest that of the first file that could be read as what it should be is recorded in the store, said loudly, and
held to from then on; ``sida pin RECIPE`` writes it into the recipe. What cannot be read is thrown away.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from sida import progress
from sida.addresses import redact
from sida.disk import CODES
from sida.errors import AlreadyExists, Corrupt, NotFound, UserError
from sida.foreign.boundary import LFS_POINTER, no_file, what_it_is_instead
from sida.foreign.http import Advance, TooLarge, download, note_beside
from sida.foreign.limits import FILE_BYTES
from sida.layout import pin_key
from sida.printing import one_line
from sida.settings import settings
from sida.stores import open_store
from sida.stores.cache import give_out, keep_fetched, make_folders, make_room
from sida.stores.objects import sha256_of

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
MIB = 1 << 20
MOST_BYTES = {"dataset": 2**40, "labels": 2**30}  # of a download of that label; of any other one FILE_BYTES
LOOK_BYTES = 64 * MIB  # between two looks at the free space, where a server does not say how much is to come
SPARE_BYTES = 256 * MIB  # that such a download leaves free

PLAIN_PATH = re.compile(r"(?!.*(^|/)\.{0,2}(/|$))[^\x00-\x1f\x7f]+")  # no empty part, no dots

Check = Callable[[Path], object]


def fetch_file(
    address: str, label: str, sha256: str | None = None, *, step: str = "", check: Check | None = None
) -> tuple[Path, str]:
    """Return a local file with the bytes at ``address`` (https, s3 or file) and its sha256; ``label`` names it in messages.

    A download is resumed after a kill, waits while another process of this machine has it, and is kept in the cache, whose limit
    counts it: what was used longest ago and is not in use makes room. Without ``sha256`` the digest recorded at first use is held
    to; it is recorded once ``check``, which reads a file and raises UserError for any other, has read the first. Raises UserError
    when the file is missing or is not the one expected, Corrupt when it arrives damaged twice, StoreError when its server keeps
    failing. ``step`` receives progress and notes.
    """
    parts = _parts(address, label)
    scheme = parts.scheme
    if scheme == "file":
        return _local(address, label, sha256)
    if scheme not in ("https", "http", "s3"):
        raise UserError(
            f"{label} {redact(address)}: give an address that begins with https://, s3:// or file://, or a path"
        )
    expected = sha256 or recorded_sha256(address)
    if copy := _mirrored(address):
        path, digest = fetch_file(copy, label, expected, check=check)
    elif scheme == "http" and expected is None and parts.hostname not in LOCAL_HOSTS:
        raise UserError(
            f"{label} {redact(address)}: http:// needs a sha256 in the recipe: anybody on the way may change it"
        )
    else:
        path, digest = _cached(address, label, expected, step)
    if expected is None:
        _look(path, address, label, check)
        _record(address, label, digest, step)
    return path, digest


def digest_of_file(address: str, label: str, sha256: str | None, *, step: str, check: Check | None = None) -> str:
    """Return the sha256 of the file at ``address``, for a step's key; fetch it only if nothing else gives the digest."""
    if _parts(address, label).scheme != "file" and (digest := sha256 or recorded_sha256(address)):
        return digest
    return fetch_file(address, label, sha256, step=step, check=check)[1]


def _parts(address: str, label: str) -> SplitResult:
    """Return the parts of an address. Raises UserError for one that has none."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018, which raises for one that is no port
    except ValueError as error:
        raise UserError(f"{label} {redact(address)[:150]}: is not an address: correct it in the recipe") from error
    return parts


def recorded_sha256(address: str) -> str | None:
    """Return the digest that was recorded when the address was first used with this store; None before."""
    try:
        return str(json.loads(open_store(settings().store).read(_pin(address)))["sha256"])
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{_pin(address)} in the store is damaged: delete it, or pin the recipe's digest") from error


def _mirrored(address: str) -> str | None:
    """Return SIDA_MIRROR's copy of an https address, under its host and path as `wget -x` puts it; None if it has none."""
    mirror, parts = settings().mirror, urlsplit(address)
    if not mirror or parts.scheme == "s3":
        return None
    name = unquote(f"{parts.hostname}{parts.path}")
    if not PLAIN_PATH.fullmatch(name) or any(len(part.encode()) > 255 for part in name.split("/")):
        return None  # a path that leads elsewhere, or none at all
    if mirror.startswith("s3://"):
        return f"{mirror.rstrip('/')}/{name}" if open_store(mirror).exists(name) else None
    folder = Path(mirror.removeprefix("file://")).absolute()
    if not folder.is_dir():
        raise UserError(f"SIDA_MIRROR={mirror}: no such folder: create, correct or unset it")
    return (folder / name).as_uri() if (folder / name).is_file() else None


# -- the three schemes


def _local(address: str, label: str, sha256: str | None) -> tuple[Path, str]:
    path = Path(unquote(urlsplit(address).path))
    if problem := no_file(path):
        raise UserError(f"{label} {path}: {problem}: put it there, or correct the address in the recipe")
    digest, _ = sha256_of(path)
    if sha256 not in (None, digest):
        if instead := what_it_is_instead(path):
            raise UserError(f"{label} {path} is {instead}")
        raise _another(label, str(path), digest, f"the recipe expects {sha256}")
    return path, digest


def _cached(address: str, label: str, expected: str | None, step: str) -> tuple[Path, str]:
    """Return the file from the cache or its server: one process of this machine downloads it, the others wait for that."""
    folder = settings().cache / "fetched"
    part = folder / f"{_name(address)}.part"
    try:
        make_folders(folder.parent)
        with part.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                return _fetch(address, label, expected, folder, step)
            except (TooLarge, OSError):
                if not _is_known(part):
                    _forget(part)  # nobody knows how much was to come: it is not gone on with
                raise
    except TooLarge as error:
        raise UserError(f"{label} {redact(address)[:150]}: {error}: give the address of the file itself") from error
    except OSError as error:
        if error.errno in CODES:
            needed = f" ({error.strerror})" if "needed" in (error.strerror or "") else ""
            raise UserError(
                f"disk full while fetching {label} {redact(address)[:100]} into {folder}{needed}: free space or set SIDA_CACHE"
            ) from error
        reason = os.strerror(error.errno or 0)
        raise UserError(f"{folder} cannot be written ({reason}): set SIDA_CACHE to a folder") from error


def _fetch(address: str, label: str, expected: str | None, folder: Path, step: str) -> tuple[Path, str]:
    """Return the file from the cache, or download it; a resumed download that proves wrong is repeated once from its beginning."""
    name = _file_name(address)
    if expected is not None:
        path = folder / expected / name
        if give_out(folder.parent, path):
            if sha256_of(path)[0] == expected:
                return path, expected
            path.unlink()  # another program wrote into the cache
    part = folder / f"{_name(address)}.part"
    resumed = part.exists()
    progress.note(step or label, f"fetching {label} {redact(address)}")
    digest = _download(address, part, label, step)
    if resumed and expected not in (None, digest):
        _forget(part)
        first, digest = digest, _download(address, part, label, step)
        if digest not in (first, expected):
            _forget(part)
            raise Corrupt(f"{label} {redact(address)}: two downloads differ, both damaged: look at the network")
    if expected not in (None, digest):
        try:
            _refuse_stand_in(part, f"{label} {redact(address)}")
        finally:
            _forget(part)
        raise _another(label, redact(address), digest, f"expected is {expected}")
    path = folder / digest / name
    keep_fetched(folder.parent, part, path)
    _forget(part)
    return path, digest


def _download(address: str, part: Path, label: str, step: str) -> str:
    """Complete the file ``part`` and return its sha256."""
    bar: progress.Progress | None = None
    looked = 0

    def advance(done: int, total: int) -> None:
        nonlocal bar, looked
        if bar is None:
            make_room(part.parent.parent, max(total - done, 0), settings().cache_bytes)
            _reserve(part.parent, total - done)
            bar = progress.Progress(step or label, total and max(total // MIB, 1), "MiB")
        if not total and done - looked >= LOOK_BYTES:
            looked = done
            _reserve(part.parent, SPARE_BYTES)
        bar.update(done // MIB)

    most = MOST_BYTES.get(label.rpartition(".")[2], FILE_BYTES)
    (_download_s3 if urlsplit(address).scheme == "s3" else download)(address, part, label, advance, most)
    return sha256_of(part)[0]


def _reserve(folder: Path, needed: int) -> None:
    """Raise OSError, saying both numbers, where less is free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free")


def _download_s3(address: str, part: Path, label: str, advance: Advance, most: int) -> None:
    folder, _, name = address.rpartition("/")
    store = open_store(folder)
    try:
        stat = store.stat(name)
    except NotFound as error:
        raise UserError(f"{label} {redact(address)}: no such object: correct the address in the recipe") from error
    if stat.size > most:
        raise TooLarge(stat.size, most)
    note = note_beside(part)
    version = json.dumps([stat.etag, stat.size])
    offset = part.stat().st_size if part.exists() and note.exists() and note.read_text() == version else 0
    note.write_text(version)
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        for block in store.blocks(name, min(offset, stat.size), stat.size):
            file.write(block)
            offset += len(block)
            advance(offset, stat.size)


def _forget(part: Path) -> None:
    for path in (part, note_beside(part)):
        path.unlink(missing_ok=True)


def _is_known(part: Path) -> bool:
    """Return whether the whole size of what is being downloaded is known."""
    try:
        state = json.loads(note_beside(part).read_text())
        return bool(state["total"] if isinstance(state, dict) else state[-1])
    except (OSError, ValueError, LookupError):
        return False


def _file_name(address: str) -> str:
    """Return the last part of the address as the name of a file, whatever it holds."""
    name = re.sub(r"[^A-Za-z0-9_ .,+=()-]", "_", unquote(urlsplit(address).path).rpartition("/")[2]).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[:60]}{dot}{suffix[:30]}" if dot else name[:60] or "file"


# -- what a file is


def _look(path: Path, address: str, label: str, check: Check | None) -> None:
    """Read a file of the first use; one that is not what it should be is thrown away, if it is a download, and not recorded."""
    try:
        _refuse_stand_in(path, f"{label} {redact(address)}")
        if check is not None:
            check(path)
    except UserError as error:
        downloaded = path.is_relative_to(settings().cache / "fetched")
        if downloaded:
            path.unlink(missing_ok=True)
        text = str(error).replace(str(path), redact(address))[:220]
        raise type(error)(
            f"{text} (its sha256 is not recorded{', the download is thrown away' * downloaded})"
        ) from error


def _refuse_stand_in(path: Path, what: str) -> None:
    """Raise UserError for what servers send in a file's place."""
    with path.open("rb") as file:
        head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise UserError(f"{what}: is a web page (HTML) and not the file: does it need a login, or a direct address?")
    if head.startswith(LFS_POINTER):
        raise UserError(
            f"{what}: is a Git LFS pointer and not the file: fetch it by `git lfs pull`, or by its own address"
        )


# -- digests


def _record(address: str, label: str, digest: str, step: str) -> None:
    """Record the digest of first use; of racing users one wins, and the others must have seen the same."""
    record = {"address": redact(address), "sha256": digest}
    try:
        open_store(settings().store).put_if_absent(_pin(address), json.dumps(record, indent=1).encode())
    except AlreadyExists:
        if (first := recorded_sha256(address)) != digest:
            raise _another(label, redact(address), digest, f"another process saw {first}") from None
    progress.note(
        step or label,
        f"NOT PINNED: {label} {redact(address)} has no sha256 in the recipe; {digest} is recorded from this first use and held to "
        f"from now on (`sida pin RECIPE` writes it into the recipe)",
    )


def _another(label: str, address: str, digest: str, expectation: str) -> UserError:
    return UserError(
        f"{label} {one_line(address, 60)}: sha256 is {digest}, {expectation}: fetch the right file or pin this one"
    )


def _pin(address: str) -> str:
    return pin_key(_name(address))


def _name(address: str) -> str:
    """Return the address without userinfo, as a file name."""
    parts = urlsplit(address)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    return hashlib.sha256(plain.encode()).hexdigest()[:32]
