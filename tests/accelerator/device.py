"""An accelerator that is not there: torch's PrivateUse1 as a device type of its own, whose memory this machine's CPU computes.

Two ways to use it, both strict about devices as CUDA is (tensors of two devices in one operator raise; a CPU scalar may join):

* ``values()``: tensors of the device hold numbers, and every operator runs on the CPU. Whole workers run to their end on it.
* ``shapes()``: tensors hold none (torch's FakeTensorMode), so that networks of full size cost nothing. Nothing may be read.

Both give a ``Waits``, which counts where the host waits for the device: reading a number, copying to the host, copying from
pageable memory, operators whose result's size depends on values. A process can register one such device type, and keeps it.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "fgpu"
SIDA = str(Path(__file__).resolve().parents[2] / "sida")
aten = torch.ops.aten

READS = {"aten::_local_scalar_dense", "aten::equal"}
SIZED = {  # the size of what they return depends on values
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}
TRANSFERS = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
# What CUDA has no deterministic kernel for, by torch's list (torch.use_deterministic_algorithms); floating-point tensors.
UNORDERED = {
    "aten::kthvalue",
    "aten::median",
    "aten::cumsum",
    "aten::histc",
    "aten::bincount",
    "aten::put_",
    "aten::grid_sampler_2d_backward",
    "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward",
    "aten::replication_pad2d_backward",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::_adaptive_avg_pool2d_backward",
    "aten::_embedding_bag",
    "aten::_cdist_backward",
}
WAITING = READS | SIZED | INDEXED | {"aten::repeat_interleave"}


class _Stream:
    """The one queue of work, in which everything is done at once; its events too."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    wait = synchronize = wait_event = wait_stream = record

    def record_event(self, *_: Any) -> _Stream:
        return self


class _Module:
    """What ``torch.get_device_module`` gives for the device."""

    Stream = Event = _Stream

    def current_stream(self, device: Any = None) -> _Stream:
        return _Stream()

    def stream(self, stream: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        for waits in _counting:
            waits.note("synchronize")

    def empty_cache(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


@cache
def device() -> torch.device:
    """The device; registers its type in this process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    return torch.device(NAME, 0)


class Waits:
    """How often the host waited for the device, by place in sida (``training/loop.py:84``) and reason."""

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def note(self, reason: str) -> None:
        """One more, at the innermost line of sida on this thread's stack."""
        frame: Any = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(SIDA):
            frame = frame.f_back
        place = "?" if frame is None else f"{frame.f_code.co_filename[len(SIDA) + 1 :]}:{frame.f_lineno}"
        with self._lock:
            self.places[place, reason] += 1

    def clear(self) -> None:
        self.places.clear()

    @property
    def count(self) -> int:
        return sum(self.places.values())

    def __str__(self) -> str:
        return "\n".join(f"{count:6d} {place} {reason}" for (place, reason), count in self.places.most_common())


_counting: list[Waits] = []
_pinned: dict[int, Any] = {}  # storages that stand for page-locked memory, kept so that no address is used twice


def _is_pinned(tensor: Tensor) -> bool:
    return tensor.untyped_storage()._cdata in _pinned


def _pin(tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    _pinned[storage._cdata] = storage
    return tensor


class OnDevice(Tensor):
    """A tensor of the device; ``raw`` holds its numbers on the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> OnDevice:
        self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=device()
        )  # fmt: skip
        self.raw = raw
        return self

    def __init__(self, raw: Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.raw!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator: on the CPU's numbers, for tensors of one device."""
    name = func._schema.name
    leaves = list(_leaves((*args, *kwargs.values())))
    there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    target = kwargs.get("device")
    wanted = "" if target is None else torch.device(target).type
    if name == "aten::is_pinned":
        return _is_pinned(args[0])
    if name == "aten::_pin_memory":
        return _pin(args[0].clone())
    if not there and wanted != NAME:
        pinning = kwargs.pop("pin_memory", None)
        made = func(*args, **kwargs)
        return _pin(made) if pinning else made
    _check(name, args, leaves)
    if name in UNORDERED and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{name} does not have a deterministic implementation")
    if wanted:
        kwargs = kwargs | {"device": torch.device("cpu"), **({"pin_memory": False} if "pin_memory" in kwargs else {})}
    made = func(*(_raw(one) for one in args), **{key: _raw(one) for key, one in kwargs.items()})
    if name == "aten::copy_":
        return args[0]
    if wanted and wanted != NAME:
        return made  # the host's copy
    return _wrapped(made, {id(tensor.raw): tensor for tensor in there})


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _raw(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.raw
    return type(value)(_raw(one) for one in value) if type(value) in (list, tuple) else value


def _wrapped(value: Any, known: dict[int, OnDevice]) -> Any:
    if isinstance(value, Tensor):
        return known[id(value)] if id(value) in known else OnDevice(value)
    return type(value)(_wrapped(one, known) for one in value) if type(value) in (list, tuple) else value


def _check(name: str, args: Any, leaves: list[Any]) -> None:
    """Raises RuntimeError for tensors of two devices, as CUDA would."""
    if name in TRANSFERS:
        return
    others = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, OnDevice) and t.ndim]
    if name in INDEXED and isinstance(args[0], OnDevice):
        others = [t for t in others if t.dtype not in (torch.int64, torch.bool)]  # such indices are copied over
    if others and any(isinstance(t, OnDevice) for t in leaves):
        raise RuntimeError(f"{name}: expected all tensors on the same device, found {NAME}:0 and cpu")


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """Why the host waits for the device in this operator; "" where it does not."""
    name = func._schema.name
    first = args[0] if args else None
    if name in TRANSFERS:
        source = args[1] if name == "aten::copy_" else first
        goal = first.device if name == "aten::copy_" else torch.device(kwargs.get("device") or first.device)
        if source.device.type == goal.type:
            return ""
        blocking = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
        if goal.type == NAME:
            if source.ndim == 0 and name == "aten::copy_":
                return ""  # a kernel's argument
            return "" if _is_pinned(source) and not blocking else "copy from pageable memory"
        return "" if name == "aten::copy_" and _is_pinned(first) and not blocking else "copy to the host"
    if name not in WAITING:
        return ""
    if not any(isinstance(t, Tensor) and t.device.type == NAME for t in _leaves((*args, *kwargs.values()))):
        return ""
    if name in READS:
        return "read of a number"
    if name in SIZED or (name == "aten::repeat_interleave" and len(args) == 1 and kwargs.get("output_size") is None):
        return "size by values"
    if name in INDEXED:
        indices = [t for t in args[1] if t is not None]
        if any(t.device.type != NAME for t in indices):
            return "copy from pageable memory"
        if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            return "size by values"
    return ""


class _Counting(TorchDispatchMode):
    """Notes where operators wait for the device, and runs them."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reason := _waits(func, args, kwargs):
            self.waits.note(reason)
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


class _Values(_Counting):
    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return _run(func, args, kwargs)


@contextmanager
def _counted() -> Iterator[Waits]:
    device()
    waits, lifted = Waits(), torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    _counting.append(waits)
    try:
        yield waits
    finally:
        _counting.remove(waits)
        torch._C._set_only_lift_cpu_tensors(lifted)


@contextmanager
def values() -> Iterator[Waits]:
    """Tensors of the device hold numbers: everything runs, slower than on the CPU. Gives the count of waits."""
    pin_memory = Tensor.pin_memory
    Tensor.pin_memory = lambda self, *_: _pin(self.clone())  # type: ignore[method-assign]  # also in threads without the mode
    try:
        with _counted() as waits, _Values(waits):
            yield waits
    finally:
        Tensor.pin_memory = pin_memory  # type: ignore[method-assign]
        _pinned.clear()


class _Shapes(_Counting):
    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func._schema.name in TRANSFERS:
            for tensor in (t for t in args if getattr(t, "constant", None) is not None):
                tensor.constant = None  # torch would compute with it, on the device
        return func(*args, **kwargs)


@contextmanager
def shapes() -> Iterator[Waits]:
    """Tensors hold no numbers, on the device and on the CPU: networks of full size run in no memory. Gives the count of waits."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with _counted() as waits, warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), _Shapes(waits):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by torch's own deepcopy
        yield waits


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """A network made under ``shapes()``, on the device: ``Module.to`` cannot, for parameters without numbers."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(parameter.detach().to(device()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device())
    return network
