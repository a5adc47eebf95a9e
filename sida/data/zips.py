"""The entries of a zip, refused as a whole where it is damaged or hostile."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter
from pathlib import Path

from sida.data.entries import DEFLATED, STORED, Entry, check_size, checked_name
from sida.errors import UserError
from sida.foreign.boundary import reading


def zip_entries(path: Path) -> list[Entry]:
    """Return all files of a zip, in the order of its directory; folders too, with a slash at the end.

    Raises UserError naming the archive and what is wrong.
    """
    with reading(str(path), path, "not a whole zip"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    entries = [_entry(path, info) for info in members]
    if repeated := [
        name for name, count in Counter(entry.name for entry in entries).items() if count > 1 and not name.endswith("/")
    ]:
        raise UserError(f"{path}: {repeated[0]} is in it twice: pack it again")
    if sum(entry.size for entry in entries) > path.stat().st_size:
        raise UserError(f"{path}: its entries overlap: refused as a bomb")
    return entries


def _entry(path: Path, info: zipfile.ZipInfo) -> Entry:
    original = info.orig_filename
    if not info.flag_bits & 0x800 and not original.isascii():
        raise UserError(f"{path}: the name {original!r} is not marked as UTF-8: rename it, then pack again")
    name = checked_name(original.replace("\\", "/"), path)  # which old tools of Windows write between folders
    if name.endswith("/"):
        return Entry(name, str(path), 0, 0, 0)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise UserError(f"{path}: {name} is a link or a device, not a file: refused; do not use this archive")
    if info.header_offset < 0:
        raise UserError(f"{path}: not a whole zip (its beginning is missing): fetch it again")
    if info.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted: pack it without a password")
    if info.compress_type not in (STORED, DEFLATED):
        raise UserError(f"{path}: {name} is compressed by method {info.compress_type}: pack it stored or deflated")
    check_size(name, info.compress_size, info.file_size, path)
    return Entry(name, str(path), info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
