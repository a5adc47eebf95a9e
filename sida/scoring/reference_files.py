"""Published reference statistics and reference images, read without running anything that they hold.

EDM: an npz with ``mu`` [F] and ``sigma`` [F, F]; EDM2: a pickle with a dictionary of them per metric. NVIDIA's covariances are over
N - 1. Reference images (for precision and recall): an npz with ``arr_0`` uint8 [N, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.errors import UserError
from sida.foreign import read_pickle
from sida.foreign.arrays import read_npz
from sida.foreign.boundary import reading
from sida.numerics.frechet import check_covariance
from sida.printing import one_line

PICKLE_KEYS = {"fid": "fid", "fd_dinov2": "fd_dinov2"}  # metric -> key in EDM2's file
ARRAYS = ("mu", "sigma")
MOST = 1e30  # of a mean or a covariance: products of them stay within float64
MOST_IMAGES = 2**48


@dataclass(frozen=True)
class Statistics:
    """Mean float64 [F] and covariance float64 [F, F]; ``count`` images where the file says so (a pickle should)."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None
    counts: bool = False  # whether files of this kind say of how many images they are


def read_statistics(path: Path, metric: str, features: int) -> Statistics:
    """Return the statistics for a metric in an npz or a pickle. Raises UserError for any file that does not hold them."""
    label = f"reference {path}"

    def check(arrays: Mapping[str, Any]) -> None:
        """See shapes and types, of headers or arrays."""
        mean, covariance = (arrays[name] for name in ARRAYS)
        if mean.shape != (features,) or covariance.shape != (features, features):
            raise UserError(
                f"{label}: mu {list(mean.shape)} and sigma {list(covariance.shape)}, but the detector has {features} "
                f"features: take the reference that was made with this detector"
            )
        for name in ARRAYS:
            dtype = arrays[name].dtype
            if dtype.kind != "f" or dtype.itemsize not in (4, 8):
                raise UserError(f"{label}: {name} is {dtype}, expected float32 or float64: take the published file")

    with reading(label, path):
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            arrays, count = read_npz(path, ARRAYS, label, check), None
        else:
            arrays, count = _pickled(path, metric, label)
            check(arrays)
        mean, covariance = (arrays[name].astype(np.float64) for name in ARRAYS)  # whatever their byte order
        for name, values in zip(ARRAYS, (mean, covariance), strict=True):
            if not np.isfinite(values).all():
                raise UserError(f"{label}: {name} is not all finite numbers: fetch it again")
            if float(np.abs(values).max(initial=0.0)) > MOST:
                raise UserError(f"{label}: {name} holds numbers beyond {MOST:g}, which no feature has: fetch it again")
        try:
            check_covariance(torch.from_numpy(covariance))
        except ValueError as error:
            raise UserError(f"{label}: {error}: fetch it again") from error
        return Statistics(mean, covariance, count, not is_zip)


def read_reference_images(path: Path, resolution: int, name: str = "") -> np.ndarray:
    """Return reference images uint8 [N, 3, H, W]. Raises UserError for another file or size; ``name``: the user's file."""
    label = f"reference images {name or path}"

    def check(headers: Mapping[str, Any]) -> None:
        images = headers["arr_0"]
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[1:] != (resolution, resolution, 3):
            raise UserError(
                f"{label}: arr_0 is {images.dtype} {list(images.shape)}, expected uint8 [N, {resolution}, {resolution}, 3]: "
                f"take the file of this size"
            )

    images = read_npz(path, ("arr_0",), label, check)["arr_0"]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _pickled(path: Path, metric: str, label: str) -> tuple[dict[str, np.ndarray], int | None]:
    content: Any = read_pickle(path, label)
    key = PICKLE_KEYS.get(metric, metric)
    if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
        held = (
            ", ".join(sorted(one_line(str(name), 40) for name in content)[:8]) if isinstance(content, Mapping) else ""
        )
        raise UserError(f"{label}: holds {held or 'no dictionary'}, nothing for {key}: take the file of this metric")
    arrays = {}
    for name in ARRAYS:
        if name not in content[key]:
            raise UserError(f"{label}: {key} holds no {name}: it is damaged, fetch it again")
        arrays[name] = content[key][name]
        if not isinstance(arrays[name], np.ndarray):
            raise UserError(f"{label}: {name} is {type(arrays[name]).__name__}, not a numpy array: fetch it again")
    count = content.get("num_images")
    if count is not None and (
        isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= MOST_IMAGES
    ):
        raise UserError(
            f"{label}: num_images is {str(count)[:40] if isinstance(count, int | float) else type(count).__name__}"
            f", expected how many images it was made of: fetch it again"
        )
    return arrays, None if count is None else int(count)
