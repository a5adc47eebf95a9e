"""Published reference statistics and reference images, read without running anything that they hold.

EDM, TTUR: an npz with ``mu`` [F] and ``sigma`` [F, F]; EDM2: a pickle with a dictionary of them per metric. NVIDIA's covariances
are over N - 1. Reference images (for precision and recall): an npz with ``arr_0`` uint8 [N, H, W, 3]. ADM's ``VIRTUAL_*.npz`` hold
both: ``mu`` and ``sigma`` of the whole training set, and 10,000 images in ``arr_0``; ``mu_s``, ``sigma_s`` are of other features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.errors import Refused, UserError
from sida.foreign import read_pickle
from sida.foreign.arrays import Header, npz_headers, read_npz
from sida.foreign.boundary import reading
from sida.numerics.frechet import check_covariance
from sida.printing import one_line

PICKLE_KEYS = {"fid": "fid", "fd_dinov2": "fd_dinov2"}  # metric -> key in EDM2's file
ARRAYS = ("mu", "sigma")
IMAGES = "arr_0"
MOST = 1e30  # of a mean or a covariance: products of them stay within float64
MOST_IMAGES = 2**48


@dataclass(frozen=True)
class Statistics:
    """Mean float64 [F] and covariance float64 [F, F]; ``count`` images where the file says so (a pickle should)."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None
    counts: bool = False  # whether files of this kind say of how many images they are
    images: tuple[int, ...] = ()  # shape of the images that the file holds besides, which the statistics need not be of


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
        images: tuple[int, ...] = ()
        if is_zip:
            headers = npz_headers(path, label)
            _refuse_images_alone(headers, label)
            images = header.shape if (header := headers.get(IMAGES)) is not None else ()
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
        return Statistics(mean, covariance, count, not is_zip, images)


def _refuse_images_alone(headers: Mapping[str, Header | None], label: str) -> None:
    if IMAGES in headers and not set(ARRAYS) <= headers.keys():
        raise Refused(
            f"{label}: holds images ({IMAGES}) and no mu and sigma, which the score needs: name a file of statistics, "
            f"and this one as evaluation.precision_recall_reference"
        )


def read_reference_images(path: Path, resolution: int, channels: int = 3, name: str = "") -> np.ndarray:
    """Return reference images uint8 [N, C, H, W], of gray ones one of their three equal channels; ``name``: the user's file.

    Raises UserError for another file or size, and for color where the recipe has one channel.
    """
    label = f"reference images {name or path}"

    def check(headers: Mapping[str, Any]) -> None:
        images = headers[IMAGES]
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[1:] != (resolution, resolution, 3):
            raise UserError(
                f"{label}: arr_0 is {images.dtype} {list(images.shape)}, expected uint8 [N, {resolution}, {resolution}, 3]: "
                f"take the file of this size"
            )

    with reading(label, path):
        headers = npz_headers(path, label)
        if IMAGES not in headers and set(ARRAYS) <= headers.keys():
            raise Refused(
                f"{label}: holds statistics (mu, sigma) and no images ({IMAGES}), which precision and recall compare: name a file "
                f"of images, and this one as evaluation.reference"
            )
    images = read_npz(path, (IMAGES,), label, check)[IMAGES]
    if channels == 1 and (images != images[..., :1]).any():
        raise UserError(f"{label}: arr_0 is in color, dataset.channels is 1: take the file of gray images")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)[:, :channels])


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
