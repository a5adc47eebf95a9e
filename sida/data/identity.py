"""The identity of a data source's state, found without reading it all again every time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sida.data.latents import vae_sha256
from sida.data.patterns import expand, is_pattern
from sida.data.places import check_packed, is_remote, path_of
from sida.errors import UserError
from sida.foreign.fetch import digest_of_file
from sida.recipe import Dataset
from sida.settings import settings
from sida.stores.objects import sha256_of


def identify(dataset: Dataset) -> dict[str, str]:
    """Return ``sha256`` of an archive, or ``listing``: digest of a folder's names, sizes and times; ``vae`` of a local one.

    Raises UserError when it is not there, or is not what the recipe pins.
    """
    identity: dict[str, str] = {}
    path = None
    if is_remote(dataset):
        identity["sha256"] = digest_of_file(
            str(dataset.address), "dataset", dataset.sha256, step="prepare_data", check=check_packed
        )
    else:
        path = path_of(dataset)
    if path is not None and path.is_dir():
        identity["listing"] = _listing(_files_under(path), path)
    elif path is not None and is_pattern(path):
        identity["listing"] = _listing(expand(path), path.parent)
    elif path is not None:
        identity["sha256"] = _remembered_sha256(path)
        if dataset.sha256 and identity["sha256"] != dataset.sha256:
            raise UserError(
                f"{path}: sha256 is {identity['sha256']}, the recipe expects {dataset.sha256}: "
                f"fetch it again, or pin the new digest"
            )
    if dataset.latents is not None and (digest := vae_sha256(dataset.latents)):
        identity["vae"] = digest
    return identity


def _files_under(top: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))


def _listing(paths: Iterable[str | Path], top: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        line = f"{os.path.relpath(path, top)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _remembered_sha256(path: Path) -> str:
    """Return the file's sha256, from a note in the cache while the file is untouched: archives may hold 150 GB."""
    status = path.stat()
    state = [str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size]
    note = settings().cache / "hashed" / hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    try:
        remembered = json.loads(note.read_text())
        if remembered[:-1] == state:
            return str(remembered[-1])
    except (OSError, ValueError):
        pass
    digest, _ = sha256_of(path)
    temporary = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps([*state, digest]))
        temporary.replace(note)
    except OSError:  # a cache that cannot be written only costs another hashing
        temporary.unlink(missing_ok=True)
    return digest
