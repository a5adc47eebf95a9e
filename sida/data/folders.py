"""The entries of a folder on disk, of an archive, or of a tar of tars: one list whatever the source is."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from sida.data.entries import Entry, checked_name
from sida.data.tars import tar_entries, unpacked
from sida.data.zips import zip_entries
from sida.errors import UserError

GZIPS = (".tar.gz", ".tgz")


def entries_of(path: Path, scratch: Path) -> list[Entry]:
    """Return every file of a folder, zip, tar or tar.gz, sorted by name as NVIDIA's tools do: the whole string, by code points.

    Folders are among them, with a slash at the end: an empty one may be a class of which images are missing.
    ``scratch`` is a folder for an unpacked tar.gz. Raises UserError when there is nothing there, or for a damaged archive.
    """
    if path.is_dir():
        entries = _folder_entries(path)
    elif zipfile.is_zipfile(path) or path.name.lower().endswith(".zip"):
        entries = zip_entries(path)
    elif path.name.lower().endswith((".tar", *GZIPS)):
        entries = list(tar_entries(unpacked(path, scratch), path))
    elif path.exists():
        raise UserError(f"{path}: neither a folder nor a .zip, .tar or .tar.gz: correct dataset.address")
    else:
        raise UserError(f"{path}: no such file or folder: put the data there, or correct dataset.address")
    entries.sort(key=lambda entry: entry.name)
    return entries


def _folder_entries(top: Path) -> list[Entry]:
    entries = []
    for folder, folders, names in os.walk(top, onerror=_refuse):
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise UserError(
                    f"{Path(folder) / name}: a link to a folder: give that folder itself, or put it in the place of the link"
                )
            relative = checked_name(os.path.relpath(os.path.join(folder, name), top), top)
            entries.append(Entry(f"{relative}/", os.path.join(folder, name), 0, 0, 0))
        for name in names:
            path = os.path.join(folder, name)
            relative = checked_name(os.path.relpath(path, top), top)
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from error
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: a pipe, socket or device, not a file: remove it")
            entries.append(Entry(relative, path, 0, status.st_size, status.st_size))
    return entries


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
