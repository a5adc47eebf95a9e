"""Where a recipe's data lie: a file, a folder, a pattern of files, or an address to fetch from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sida.data.cifar10 import archive_or_batches
from sida.data.parquet import MAGIC
from sida.data.patterns import expand, is_pattern
from sida.data.tars import looks_like_tar
from sida.errors import UserError
from sida.foreign.boundary import no_file
from sida.foreign.fetch import fetch_file
from sida.recipe import Dataset

PACKAGED = ("digits", "patches")  # sources that packages ship
SEVERAL = ("webdataset", "parquet")  # sources whose address may be a pattern of files


def is_remote(dataset: Dataset) -> bool:
    """Return whether the data are a file to fetch. Raises UserError when the recipe names no address of the data."""
    if dataset.source in PACKAGED:
        return False
    if dataset.address is None:
        raise UserError(
            f"dataset.address is missing: source {dataset.source} has to be fetched by you ({dataset.licence}): write a recipe "
            f"that extends this one and says where it lies (docs/benchmarks.md, What to download)"
        )
    return urlsplit(dataset.address).scheme not in ("", "file")


def path_of(dataset: Dataset) -> Path | None:
    """Return the local file or folder of the data, fetched if need be, or a pattern of files; None for sources that need none.

    Raises UserError when it is not there, and what fetching raises.
    """
    if dataset.source in PACKAGED:
        return None
    if is_remote(dataset):
        return fetch_file(str(dataset.address), "dataset", dataset.sha256, step="prepare_data", check=check_packed)[0]
    path = Path(unquote(urlsplit(str(dataset.address)).path))
    if dataset.source in SEVERAL and is_pattern(path):
        expand(path)
        return path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: put the data there, or correct dataset.address")
    if dataset.source == "cifar10":
        path = archive_or_batches(path)
    if not path.is_dir() and (problem := no_file(path)):
        raise UserError(f"{path} {problem}: give a file or folder in dataset.address")
    return path


def check_packed(path: Path) -> None:
    """Raise UserError unless a file is of a kind that data sets are packed in: zip, tar, Parquet, or JSON with labels alone."""
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(MAGIC) or head.lstrip().startswith(b"{") or zipfile.is_zipfile(path) or looks_like_tar(path):
            return
    raise UserError(
        f"dataset {path}: is no zip, tar, Parquet or dataset.json: correct dataset.address, and fetch it again"
    )
