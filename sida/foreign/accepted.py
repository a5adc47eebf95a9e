"""Globals that a foreign pickle may mention, and what calling each of them amounts to here.

Nothing is imported or called by name: a global is looked up in these tables, and what it builds is a plain value or an
inert stand-in. Sources: pickletools on files written by NVIDIA's persistence module, torch 2.13 and numpy 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sida.foreign.limits import Budget
from sida.foreign.stand_ins import MOST_DIMENSIONS, Global, Inert, Storage, TensorView, checked_view

Bytes = bytes | memoryview
Loader = Callable[[memoryview], Storage]  # reads torch's old stream, under the same budget

SLOT_BYTES = 100  # of one entry in a dict or set, generously
NUMPY_TYPES = {
    *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"),
    *("?", "b", "h", "i", "l", "q", "B", "H", "I", "L", "Q", "e", "f", "d"),
}


def check_key(key: Any) -> Any:
    """Return ``key`` if hashing and comparing it is cheap and cannot be made to collide; raise ValueError otherwise."""
    if key is None or type(key) in (str, bytes, bool, float) or (type(key) is int and abs(key) < 2**63):
        return key
    raise ValueError(f"a key or set member of type {type(key).__name__}; text, bytes and numbers are accepted")


# -- numpy


class PendingArray:
    """numpy's ``_reconstruct``: an array once its state is known, also for the memo's ``memo_numbers``."""

    def __init__(self) -> None:
        self.memo_numbers: list[int] = []


class DType:
    """numpy's dtype: a plain number, no object, no structure."""

    def __init__(self, code: Any) -> None:
        text = bytes(code).decode("ascii") if isinstance(code, bytes | memoryview) else code
        if not isinstance(text, str) or text not in NUMPY_TYPES:
            raise ValueError(f"numpy type {str(text)[:20]!r}; only plain numbers are accepted")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> None:
        """Take the byte order from numpy's state, and refuse all that only structured types have."""
        if not (isinstance(state, tuple) and len(state) in (8, 9) and state[2:5] == (None, None, None)):
            raise ValueError("the state of a numpy type that is no plain number")
        order = _ascii(state[1])
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"numpy byte order {order[:10]!r}")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


def array_of(state: Any, budget: Budget) -> np.ndarray:
    """Return numpy's state tuple (version, shape, type, Fortran order, raw bytes) as a read-only view of the bytes."""
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError("the state of a numpy array that is not numpy's")
    _, shape, dtype, fortran, raw = state
    return _array(raw, dtype, shape, "F" if fortran is True else "C", budget)


def _array(raw: Any, dtype: Any, shape: Any, order: str, budget: Budget) -> np.ndarray:
    if not (isinstance(dtype, DType) and isinstance(raw, bytes | memoryview | bytearray)):
        raise ValueError("a numpy array without plain bytes and a plain type")
    if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS:
        raise ValueError("a numpy array whose shape is not a short tuple")
    if any(type(length) is not int or not 0 <= length < 2**48 for length in shape):
        raise ValueError("a numpy array whose shape is not made of lengths")
    if math.prod(shape) * dtype.dtype.itemsize != len(raw):
        raise ValueError(f"a numpy array of shape {list(shape)} and type {dtype.dtype} with {len(raw)} bytes")
    budget.charge_tensor(len(raw))
    flat = np.frombuffer(raw, dtype.dtype)
    flat.flags.writeable = False
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _ascii(text: Any) -> str:
    return bytes(text).decode("ascii") if isinstance(text, bytes | memoryview) else str(text)


# -- calls


def _dtype(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    return DType(args[0])


def _reconstruct(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    if len(args) != 3 or args[0] != Global("numpy", "ndarray"):
        raise ValueError("numpy's _reconstruct of another class than ndarray")
    return PendingArray()


def _scalar(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    dtype, raw = args
    return _array(raw, dtype, (1,), "C", budget)[0]


def _frombuffer(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    raw, dtype, shape, order = args
    return _array(raw, dtype, shape, "F" if order == "F" else "C", budget)


def _encode(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    text, encoding = args
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode of anything but text to latin1")
    budget.charge(len(text))
    return text.encode("latin-1")


def _no_bytes(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    """Return b"", as Python 3 writes it under protocol 2."""
    if args:
        raise ValueError("bytes made of something")
    return b""


def _set(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    (members,) = args or ([],)
    if not isinstance(members, list | tuple):
        raise ValueError("a set of something that is no list")
    budget.charge(SLOT_BYTES * len(members))
    return {check_key(member) for member in members}


def _dict(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    (pairs,) = args or ([],)
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list | tuple):
        raise ValueError("a dict of something that is no list of pairs")
    budget.charge(SLOT_BYTES * (len(pairs) + 1))
    return {check_key(key): value for key, value in pairs}


def _bound_method(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    """Return a hook that is a bound method as a pair; it is never looked up."""
    return Inert("builtins.getattr", args)


def _persistent(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    """Return a stand-in where NVIDIA's persistence would execute ``module_src``. Its state is shared, and may be filled later."""
    (meta,) = args
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise ValueError("a persistent object that does not name its class")
    source = meta.get("module_src")
    return Inert(meta["class_name"], (), meta.get("state"), source if isinstance(source, str) else "")


def _load_from_bytes(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    (raw,) = args
    if not isinstance(raw, bytes | memoryview):
        raise ValueError("a storage that is not made of bytes")
    return load(memoryview(raw))


def _tensor(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    if not 6 <= len(args) <= 7:
        raise ValueError(f"_rebuild_tensor_v2 with {len(args)} arguments")
    view = checked_view(*args[:4])
    budget.charge_tensor(view.nbytes)
    return view


def _parameter(args: tuple[Any, ...], budget: Budget, load: Loader) -> Any:
    if not args or not isinstance(args[0], TensorView):
        raise ValueError("_rebuild_parameter of something that is no tensor")
    return replace(args[0], parameter=True)


Call = Callable[[tuple[Any, ...], Budget, Loader], Any]

CALLS: dict[tuple[str, str], Call] = {
    ("_codecs", "encode"): _encode,
    ("builtins", "getattr"): _bound_method,
    ("__builtin__", "getattr"): _bound_method,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("collections", "OrderedDict"): _dict,
    ("dnnlib.util", "EasyDict"): _dict,
    ("numpy", "dtype"): _dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}
NEW: dict[tuple[str, str], Call] = {  # made with NEWOBJ
    ("collections", "OrderedDict"): _dict,
    ("dnnlib.util", "EasyDict"): _dict,
    ("torch.nn.modules.container", "ModuleDict"): lambda args, budget, load: Inert("ModuleDict", args),
}
NAMES = {("numpy", "ndarray")}  # mentioned as an argument only

# What torch's own stream inside a storage may mention.
STORAGES: dict[tuple[str, str], str] = {
    ("torch", "DoubleStorage"): "float64",
    ("torch", "FloatStorage"): "float32",
    ("torch", "HalfStorage"): "float16",
    ("torch", "BFloat16Storage"): "bfloat16",
    ("torch", "LongStorage"): "int64",
    ("torch", "IntStorage"): "int32",
    ("torch", "ShortStorage"): "int16",
    ("torch", "CharStorage"): "int8",
    ("torch", "ByteStorage"): "uint8",
    ("torch", "BoolStorage"): "bool",
}
