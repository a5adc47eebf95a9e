"""The device that this process computes on, and what depends on its kind. Nothing else asks torch which machine this is.

A kind is a device type of torch: ``cpu``, ``cuda``, or one that tests register. Devices other than the CPU have memory of their
own and work on while the host goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# What tensors of each kind travel by between processes.
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}


def kind() -> str:
    """Return the kind of device that this machine computes on: its GPUs, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def count() -> int:
    """Return how many GPUs this machine has; 0 where it computes on its CPU."""
    return 0 if (chosen := kind()) == "cpu" else int(torch.get_device_module(chosen).device_count())


def claim(number: int = 0) -> torch.device:
    """Make a device this process's default and return it. ``number``: which of the machine's GPUs.

    From now on a GPU computes float32 in float32 (``products``), sums half precision in float32, and its convolutions take the
    kernels that it finds to be the fastest, unless ``be_deterministic`` was called before.
    """
    chosen = kind()
    if chosen == "cpu":
        return torch.device(chosen)
    device, matmul = torch.device(chosen, number), torch.backends.cuda.matmul
    torch.get_device_module(device).set_device(device)
    _allow_tf32(False, False)
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    return device


def apart(device: torch.device) -> bool:
    """Return whether the device has memory of its own, which is copied to and from, and works while the host goes on."""
    return device.type != "cpu"


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Enter a context for matrix products and convolutions of float32, and their backward passes.

    In it a GPU rounds their factors to TF32 (10 bits of 23) for ``tf32``, and for no other precision. A CPU never does.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(precision == "tf32", precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(*before)


def _allow_tf32(matmul: bool, convolutions: bool) -> None:
    """Set the switches that every torch from 2.6 has; with its newer ``fp32_precision`` set, torch.compile stumbles on these."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolutions


def be_deterministic() -> None:
    """Use only kernels that give the same bits each time (on a CPU they all do) from now on. Call before ``claim``.

    What torch has no such kernel for raises RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if apart(device):
        torch.get_device_module(device).synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give memory back that torch keeps for later, after something did not fit."""
    if apart(device):
        torch.get_device_module(device).empty_cache()


def to_send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the host's tensor where the device can fetch it while the host goes on: page-locked, for a device that is apart."""
    return tensor.pin_memory() if apart(device) else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the host's tensor on the device, without waiting for it."""
    return to_send(tensor, device).to(device, non_blocking=True)


def host_bytes(count: int, device: torch.device) -> Tensor:
    """Return uint8 [count] of the host's memory, uninitialized, that the device can copy to while the host goes on.

    torch takes a power of two of bytes for it.
    """
    return torch.empty(count, dtype=torch.uint8, pin_memory=apart(device))


def elementwise(source: str, outputs: int, numbers: Sequence[str]) -> Callable[..., Any]:
    """Return a kernel of the GPU for each element of its tensors, which broadcast; torch compiles it when it is first called.

    ``source``: C++ templates of the elements' type, of which the last is the kernel; several outputs are its last arguments, by
    reference. ``numbers`` are arguments after the tensors, given by name.
    """
    from torch.cuda import jiterator

    given = dict.fromkeys(numbers, 0)
    if outputs == 1:
        return jiterator._create_jit_fn(source, **given)
    return jiterator._create_multi_output_jit_fn(source, outputs, **given)


def cards() -> list[Any]:
    """Return torch's properties of each GPU of this machine (name, total_memory, ...); none on a CPU."""
    if kind() == "cpu":
        return []
    module = torch.get_device_module(kind())
    return [module.get_device_properties(number) for number in range(module.device_count())]


def usage() -> Iterator[tuple[int, int, float | None]]:
    """Yield (bytes in use, bytes in all, percent of time at work) of each GPU; None where NVIDIA's library is missing."""
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        try:
            busy = float(torch.cuda.utilization(index))
        except (ImportError, RuntimeError, OSError):
            busy = None
        yield total - free, total, busy
