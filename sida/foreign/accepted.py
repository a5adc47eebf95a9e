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
from sida.foreign.stand_ins import MOST_DIMENSIONS, Global, Inert, TensorView, checked_view

# Called with the file's budget and the pickle's arguments; None: the global is an argument only.
# A wrong number of arguments raises TypeError, wrong ones ValueError.
Call = Callable[..., Any] | None

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
    """numpy's ``_reconstruct``: stands for an array that gets its data with its state."""

    array: np.ndarray | None = None


class DType:
    """numpy's dtype: a plain number, no object, no structure."""

    def __init__(self, code: Any) -> None:
        name = _short_text(code)
        if name not in NUMPY_TYPES:
            raise ValueError(f"numpy type {name!r}; only plain numbers are accepted")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Take the byte order from numpy's state, and refuse all that only structured types have."""
        if not (isinstance(state, tuple) and len(state) in (8, 9) and state[2:5] == (None, None, None)):
            raise ValueError("the state of a numpy type that is no plain number")
        order = _short_text(state[1])
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"numpy byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


def array_of(state: Any, budget: Budget) -> np.ndarray:
    """Return numpy's state tuple (version, shape, type, Fortran order, raw bytes) as a read-only view of the bytes."""
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError("the state of a numpy array that is not numpy's")
    _, shape, dtype, fortran, raw = state
    return _frombuffer(budget, raw, dtype, shape, "F" if fortran is True else "C")


def _frombuffer(budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(dtype, DType) and isinstance(raw, bytes | memoryview)):
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
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _short_text(text: Any) -> str:
    """Return the text that Python 2 or 3 wrote; of anything else its type's name, since printing it may take for ever."""
    if isinstance(text, bytes):
        text = text.decode("ascii")
    return text[:20] if isinstance(text, str) else type(text).__name__


def _reconstruct(budget: Budget, kind: Any, shape: Any, code: Any) -> PendingArray:
    if kind != Global("numpy.ndarray"):
        raise ValueError("numpy's _reconstruct of another class than ndarray")
    return PendingArray()


# -- Python


def _encode(budget: Budget, text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode of anything but text to latin1")
    budget.charge(len(text))
    return text.encode("latin-1")


def _set(budget: Budget, members: Any = ()) -> set[Any]:
    if not isinstance(members, list | tuple):
        raise ValueError("a set of something that is no list")
    budget.charge(SLOT_BYTES * len(members))
    return {check_key(member) for member in members}


def _dict(budget: Budget, pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list | tuple):
        raise ValueError("a dict of something that is no list of pairs")
    budget.charge(SLOT_BYTES * (len(pairs) + 1))
    return {check_key(key): value for key, value in pairs}


# -- networks


def _persistent(budget: Budget, meta: Any) -> Inert:
    """Return a stand-in where NVIDIA's persistence would execute ``module_src``. Its state is shared, and may be filled later."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise ValueError("a persistent object that does not name its class")
    source = meta.get("module_src")
    return Inert(meta["class_name"], (), meta.get("state"), source if isinstance(source, str) else "")


def _tensor(budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, *_: Any) -> Any:
    view = checked_view(storage, offset, shape, strides)
    budget.charge_tensor(view.nbytes)
    return view


def _parameter(budget: Budget, tensor: Any, *_: Any) -> TensorView:
    if not isinstance(tensor, TensorView):
        raise ValueError("_rebuild_parameter of something that is no tensor")
    return replace(tensor, parameter=True)


STATE_DICTS: dict[str, Call] = {  # what torch's own files need
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
NEW: dict[str, Call] = {  # made with NEWOBJ
    "collections.OrderedDict": _dict,
    "dnnlib.util.EasyDict": _dict,
    "torch.nn.modules.container.ModuleDict": lambda budget, *args: Inert("ModuleDict", args),
}
CALLS: dict[str, Call] = {
    **STATE_DICTS,
    **NEW,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda budget: b"",  # as Python 3 writes it under protocol 2
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "numpy.dtype": lambda budget, code, *_: DType(code),
    "numpy.ndarray": None,
}
for _module in ("builtins", "__builtin__"):
    CALLS[f"{_module}.set"] = _set
    CALLS[f"{_module}.getattr"] = lambda budget, *args: Inert("builtins.getattr", args)  # a hook; it is never looked up
for _module in ("numpy.core", "numpy._core"):
    CALLS[f"{_module}.multiarray._reconstruct"] = _reconstruct
    CALLS[f"{_module}.multiarray.scalar"] = lambda budget, dtype, raw: _frombuffer(budget, raw, dtype, (1,), "C")[0]
    CALLS[f"{_module}.numeric._frombuffer"] = _frombuffer
