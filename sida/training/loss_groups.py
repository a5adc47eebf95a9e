"""Sums over a loss group that several processes hold together (``sida.recipe.batches``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from sida.worker.ranks import Processes


class GroupSum:
    """The sum of a small tensor over processes that hold a loss group together, in one message; its gradient is another.

    In the first iteration, where processes may compile or choose kernels and take unequally long, all meet before each message.
    """

    def __init__(self, processes: Processes, group: Any, first: int) -> None:
        """``group``: torch's; ``first``: sums of the first iteration."""
        self._processes, self._group, self._first = processes, group, first

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._first:
            self._processes.meet()
            self._first -= 1
        return _Sum.apply(tensor, self._group)


class _Sum(torch.autograd.Function):
    """An all-reduce. The sum enters a loss of each process, and what is minimized is the sum of these losses.

    So the gradient for one process's term is the sum of what the losses of all of them send back.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(tensor: Tensor, group: Any) -> Tensor:
    summed = tensor.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed, group=group)
    return summed
