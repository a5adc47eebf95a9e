"""Images as an npz that OpenAI's evaluator and `score` take: ``arr_0`` uint8 [N, H, W, 3], ``arr_1`` classes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from sida.disk import writing_whole


@contextmanager
def writing_npz(path: Path, count: int, resolution: int, labels: Tensor | None) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that takes the next images, uint8 [B, 1 or 3, H, W], ``count`` in all. Equal images make equal bytes.

    The file is there once the block has ended, whole. Gray is written as three equal channels: the evaluator wants them. Nothing is
    compressed, so that readers need not inflate. ``labels``: int64 [N], of a conditional generator.
    """
    shape = (count, resolution, resolution, 3)
    with writing_whole(path, "the npz") as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        written = 0
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            _write_header(file, shape, np.dtype(np.uint8))

            def take(images: Tensor) -> None:
                nonlocal written
                written += len(images)
                assert images.shape[2:] == shape[1:3], f"images of {[*images.shape[2:]]}, not {[*shape[1:3]]}"
                pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
                file.write(np.ascontiguousarray(pixels.numpy()).data)

            yield take
        assert written == count, f"{written} images of {count}"
        if labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as file:
                _write_header(file, (count,), np.dtype("<i8"))
                file.write(labels.numpy().astype("<i8").data)


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
