"""Published reference statistics and reference images, read without running anything that they hold.

EDM: an npz with ``mu`` [F] and ``sigma`` [F, F]; EDM2: a pickle with a dictionary of them per metric. NVIDIA's covariances are over
N - 1. Reference images (for precision and recall): an npz with ``arr_0`` uint8 [N, H, W, 3].
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.errors import UserError
from sida.foreign.pickles import read_pickle
from sida.numerics.frechet import check_covariance

PICKLE_KEYS = {"fid": "fid", "fd_dinov2": "fd_dinov2"}  # metric -> key in EDM2's file


@dataclass(frozen=True)
class Statistics:
    """Mean float64 [F] and covariance float64 [F, F]; ``count`` images where the file says so."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


def read_statistics(path: Path, metric: str, features: int) -> Statistics:
    """Return the statistics for a metric in an npz or a pickle. Raises UserError for any file that does not hold them."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UserError(f"reference {path}: {error.strerror}: correct evaluation.reference.address") from error
    if head[:2] == b"PK":
        arrays, count = _npz(path, ("mu", "sigma")), None
    else:
        arrays, count = _pickled(path, metric)
    mean, covariance = arrays["mu"], arrays["sigma"]
    if mean.shape != (features,) or covariance.shape != (features, features):
        raise UserError(
            f"reference {path}: mu {list(mean.shape)} and sigma {list(covariance.shape)}, but the detector has {features} "
            f"features: take the reference that was made with this detector"
        )
    for name, values in arrays.items():
        if values.dtype not in (np.float64, np.float32) or not np.isfinite(values).all():
            raise UserError(f"reference {path}: {name} is {values.dtype} and not all finite numbers: fetch it again")
    covariance = covariance.astype(np.float64)
    try:
        check_covariance(torch.from_numpy(covariance))
    except ValueError as error:
        raise UserError(f"reference {path}: {error}: fetch it again") from error
    return Statistics(mean.astype(np.float64), covariance, count)


def read_reference_images(path: Path, resolution: int) -> np.ndarray:
    """Return reference images uint8 [N, 3, H, W]. Raises UserError for another file or size."""
    images = _npz(path, ("arr_0",))["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (resolution, resolution, 3):
        raise UserError(
            f"reference images {path}: arr_0 is {images.dtype} {list(images.shape)}, expected uint8 "
            f"[N, {resolution}, {resolution}, 3]"
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, no archive")
            if missing := [name for name in names if name not in archive.files]:
                held = ", ".join(archive.files[:8])
                raise UserError(f"reference {path}: holds {held or 'nothing'}, not {' and '.join(missing)}: wrong file")
            return {name: archive[name] for name in names}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"reference {path}: not a readable npz ({reason}): it is cut or damaged, fetch it again"
        ) from error


def _pickled(path: Path, metric: str) -> tuple[dict[str, np.ndarray], int | None]:

    content: Any = read_pickle(path, f"reference {path}")
    key = PICKLE_KEYS.get(metric, metric)
    if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
        held = ", ".join(sorted(str(name) for name in content)[:8]) if isinstance(content, Mapping) else "no dictionary"
        raise UserError(f"reference {path}: holds {held}, nothing for {key}: take the file of this metric")
    arrays = {}
    for name in ("mu", "sigma"):
        try:
            arrays[name] = np.asarray(content[key][name])
        except KeyError:
            raise UserError(f"reference {path}: {key} holds no {name}: it is damaged, fetch it again") from None
    count = content.get("num_images")
    return arrays, int(count) if isinstance(count, int) else None
