"""The layout of shards: fixed-size records, so that record i is found by arithmetic.

Record: label as little-endian int32 (-1: none), CRC-32 of the data as uint32, then the data: uint8 [channels, resolution,
resolution], or for latents float32 [2 * channels, resolution, resolution] (means, then standard deviations), or nothing (labels
alone). Any shard opens with ``numpy.memmap`` and the dtype of :func:`record_dtype`; the index is the dataset's manifest.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from sida.manifests import DatasetResult

Record = Literal["pixels", "latents", "labels"]

SHARD_BYTES = 128 * 2**20


def data_shape(record: Record, channels: int, resolution: int) -> tuple[int, ...]:
    """Return the shape of a record's data."""
    if record == "labels":
        return (0,)
    return (2 * channels if record == "latents" else channels, resolution, resolution)


def record_dtype(record: Record, channels: int, resolution: int) -> np.dtype:
    """Return the layout of one record."""
    element = "<f4" if record == "latents" else "u1"
    return np.dtype([("label", "<i4"), ("crc", "<u4"), ("data", element, data_shape(record, channels, resolution))])


def dtype_of(dataset: DatasetResult) -> np.dtype:
    """Return the layout of a data set's records."""
    return record_dtype(dataset.record, dataset.channels, dataset.resolution)


def crc_of(data: np.ndarray) -> int:
    """Return the checksum that a record carries, for reads of single records."""
    return zlib.crc32(np.ascontiguousarray(data).data)
