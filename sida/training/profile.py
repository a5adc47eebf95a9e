"""Where the time of one iteration goes, by kind of operator: measured once in every run, by torch's own profiler."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from sida import devices

KERNELS = {"cuda": ProfilerActivity.CUDA}  # what a device's own work is recorded by; elsewhere the host's time counts
PROFILED = 12  # the iteration of a process that is measured: caches are warm then

# The first kind whose words are found in an operator's name.
_KINDS = {
    "convolutions": "conv",
    "matrix products and attention": r"::(mm|addmm|bmm|baddbmm|matmul|linear|einsum)\b|scaled_dot_product|gemm",
    "normalisation": "norm",
    "activations": "silu|sigmoid|softmax|softplus|log_sigmoid",
    "optimiser and EMA": "_fused_adam|_foreach|optimizer",
    "exchange between processes": "gloo|nccl|c10d|all_?reduce",
    "dropout masks and draws": r"bitwise|erfinv|erf\b|remainder|::(rand|normal|bernoulli)",
}
ELEMENTWISE = "sums, products and copies"
REST = "Python and waiting"

Result = TypeVar("Result")


def profiled(work: Callable[[], Result], device: torch.device) -> tuple[Result, dict[str, float]]:
    """What ``work`` returns, and the milliseconds of each kind of operator in it; on CUDA those of its kernels.

    The kinds add up to the time that passed, which the profiler itself lengthens by a few per cent.
    """
    kernels = KERNELS.get(device.type)
    activities = {ProfilerActivity.CPU} | ({kernels} if kernels else set())
    with profile(activities=activities) as made:
        started = time.perf_counter()
        result = work()
        devices.wait(device)
        total = 1000 * (time.perf_counter() - started)
    found: dict[str, float] = {}
    for event in made.key_averages():
        spent = (event.self_device_time_total if kernels else event.self_cpu_time_total) / 1000
        if spent and "::" in event.key:
            kind = kind_of(event.key)
            found[kind] = found.get(kind, 0.0) + spent
    found[REST] = max(0.0, total - sum(found.values()))
    return result, {kind: round(spent, 3) for kind, spent in found.items()}


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name.

    >>> kind_of("aten::convolution_backward"), kind_of("aten::native_group_norm"), kind_of("aten::add_")
    ('convolutions', 'normalisation', 'sums, products and copies')
    """
    return next((kind for kind, words in _KINDS.items() if re.search(words, operator, re.IGNORECASE)), ELEMENTWISE)
