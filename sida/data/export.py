"""Shards as WebDataset tars: one PNG (or .npy of latents) and one .cls a sample, in the data set's order."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sida.data.shards import Shards
from sida.disk import replacing
from sida.errors import UserError

AT_ONCE = 512  # records read at a time


def export_webdataset(
    shards: Shards,
    folder: Path,
    *,
    samples_per_tar: int = 10_000,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Write ``data-000000.tar`` and so on into a folder; equal data sets make equal tars.

    A tar appears under its name when it is whole. Raises UserError when the folder holds such tars already or cannot be written.
    """
    dataset = shards.dataset
    if dataset.record == "labels":
        raise UserError(f"this data set ({dataset.source}) holds labels alone: there is nothing to export")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if existing := next(folder.glob("data-*.tar"), None):
            raise UserError(f"{existing} exists already: give an empty folder")
        indices = range(len(shards))
        for number, start in enumerate(indices[::samples_per_tar]):
            samples = indices[start : start + samples_per_tar]
            path = folder / f"data-{number:06d}.tar"
            with replacing(path) as draft, tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as tar:
                for name, content in _members(shards, samples):
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(content), 0o644
                    tar.addfile(member, io.BytesIO(content))
            written.append(path)
            progress(samples.stop)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}): free space, or give another folder"
        ) from error
    return written


def _members(shards: Shards, samples: range) -> Iterator[tuple[str, bytes]]:
    kind = shards.dataset.record
    ending = "npy" if kind == "latents" else "png"
    for start in range(0, len(samples), AT_ONCE):
        some = samples[start : start + AT_ONCE]
        for index, record in zip(some, shards.records(some), strict=True):
            yield f"{index:08d}.{ending}", _content(record["data"], kind)
            if shards.classes:
                yield f"{index:08d}.cls", str(record["label"]).encode()


def _content(data: np.ndarray, record: str) -> bytes:
    file = io.BytesIO()
    if record == "latents":
        np.save(file, data)
    else:
        pixels = data[0] if len(data) == 1 else data.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
