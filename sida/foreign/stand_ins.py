"""Stand-ins for the objects of a foreign file: names and data, no behavior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STORAGES = {  # what torch calls them, and the type of their elements
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Global:
    """Dotted name of module and global that a pickle mentions. It is never looked up."""

    name: str


@dataclass(eq=False)
class Inert:
    """Object of a class that is not ours: its name, constructor's arguments, and attributes.

    For a class saved by NVIDIA's persistence ``name`` is the class's own name and ``source`` the program text that came
    with it, which is never run. ``state`` is normally a dict.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    source: str = field(default="", repr=False)

    def __repr__(self) -> str:
        return f"Inert({self.name!r})"  # the state may hold the object itself


@dataclass(frozen=True, eq=False)
class Storage:
    """Flat data of one or several tensors: ``count`` elements, as a read-only view of the file."""

    dtype: str
    count: int
    data: memoryview = field(repr=False)

    @property
    def bits(self) -> np.dtype:
        """Type of numpy's for an element's bits: numpy has no bfloat16, so those come as uint16."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")


@dataclass(frozen=True, eq=False)
class TensorView:
    """Tensor as the file describes it; offset and strides in elements, checked to stay inside the storage."""

    storage: Storage = field(repr=False)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    parameter: bool = False

    @property
    def dtype(self) -> str:
        """``float32``, ``bfloat16``, ... as torch names it."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a contiguous copy."""
        return math.prod(self.shape) * self.storage.bits.itemsize

    def array(self) -> np.ndarray:
        """Return a read-only view of the file; bfloat16 comes as the uint16 with the same bits."""
        dtype = self.storage.bits
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        flat = np.frombuffer(self.storage.data, dtype, self.storage.count)[self.offset :]
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


def checked_view(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorView:
    """Return a tensor whose every element lies in its storage; raise ValueError otherwise."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)):
        raise ValueError("a tensor's size and stride are not tuples of one length")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions; at most {MOST_DIMENSIONS} are accepted")
    for number in (offset, *shape, *strides):
        if type(number) is not int or not 0 <= number < 2**48:
            raise ValueError(f"a tensor's offset, size or stride is {_short(number)}")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        last = offset - 1
    if last >= storage.count or offset > storage.count:
        raise ValueError(
            f"a tensor's offset {offset}, size {list(shape)} and stride {list(strides)} leave its storage of "
            f"{storage.count} elements"
        )
    return TensorView(storage, offset, shape, strides)


def _short(value: object) -> str:
    return str(value)[:40] if isinstance(value, int) and abs(value) < 10**30 else type(value).__name__
