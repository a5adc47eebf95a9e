"""Where the time of one iteration goes, by kind of operator: measured once in every run, by torch's own profiler."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from sida import devices

KERNELS = {"cuda": ProfilerActivity.CUDA}  # what a device's own work is recorded by; elsewhere the host's time counts
PROFILED = 12  # iterations of a process before one is measured: caches are warm then

EXCHANGE = "exchange between processes"

# The first kind whose words are found in an operator's name.
_KINDS = {
    "convolutions": "conv",
    "matrix products and attention": r"::(mm|addmm|bmm|baddbmm|matmul|linear|einsum)\b|scaled_dot_product|gemm",
    "normalisation": "norm",
    "activations": "silu|sigmoid|softmax|softplus|log_sigmoid",
    "optimizer and EMA": "_fused_adam|_foreach|optimizer",
    EXCHANGE: "gloo|nccl|c10d|all_?reduce",
    "dropout masks and draws": r"philox|bitwise|erfinv|erf\b|remainder|::(rand|normal|bernoulli)",
}
ELEMENTWISE = "sums, products and copies"
REST = "Python and waiting"


class IterationProfile:
    """Milliseconds of an iteration by kind of operator; on CUDA those of its kernels.

    Of the rounds of each phase one is recorded and stands for all, so that time and memory for it do not grow with their number;
    what happens once an iteration is recorded apart. The kinds add up to the time that passed, which the profiler itself lengthens
    by a few per cent.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self.events = 0  # that were recorded

    @property
    def milliseconds(self) -> dict[str, float]:
        """By kind, of the whole iteration."""
        return {kind: round(spent, 3) for kind, spent in self._spent.items()}

    @contextmanager
    def recorded(self, times: int) -> Iterator[None]:
        """A context for work that the iteration does so many times: one of the rounds of a phase, or what comes after them."""
        kernels = KERNELS.get(self._device.type)
        activities = {ProfilerActivity.CPU} | ({kernels} if kernels else set())
        with profile(activities=activities) as profiler:
            started = time.perf_counter()
            yield
            devices.wait(self._device)
            total = 1000 * (time.perf_counter() - started)
        rest = total
        for event in profiler.key_averages():
            self.events += event.count
            spent = (event.self_device_time_total if kernels else event.self_cpu_time_total) / 1000
            if spent and "::" in event.key:
                kind = kind_of(event.key)
                self._add(kind, spent * (1 if kind == EXCHANGE else times))  # gradients travel once
                rest -= spent
        self._add(REST, max(0.0, rest) * times)

    def _add(self, kind: str, spent: float) -> None:
        self._spent[kind] = self._spent.get(kind, 0.0) + spent


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name.

    >>> kind_of("aten::convolution_backward"), kind_of("aten::native_group_norm"), kind_of("aten::add_")
    ('convolutions', 'normalisation', 'sums, products and copies')
    """
    return next((kind for kind, words in _KINDS.items() if re.search(words, operator, re.IGNORECASE)), ELEMENTWISE)
