"""The processes of one job: who we are, and sums over all of us."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed

from sida import devices
from sida.launch.base import LISTENER
from sida.launch.gpus_here import check_enough
from sida.worker.meeting import Meeting

BUCKET_ELEMENTS = 8 * 2**20  # gradients travel in pieces of at most 32 MiB


@dataclass(frozen=True)
class Processes:
    """Rank and number of the job's processes, and the device of this one."""

    rank: int
    world: int
    device: torch.device
    talk: Any = None  # the group that small values on the host travel in; None: the one that tensors travel in
    meeting: Meeting | None = None  # where we wait after unequal work; None: in a group, within its time limit
    machine: int = 0  # processes of this machine; 0: all are
    timeout: timedelta | None = None  # of a message in a group that is made later; None: torch's own

    @property
    def first(self) -> bool:
        """Return whether this process writes what is written once."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return this rank's contiguous part of ``range(count)``; parts differ by at most one item."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def consecutive(self, size: int) -> Any:
        """Return the group of ``size`` consecutive processes that this one is in: all make all groups, one after the other.

        ``size`` divides their number.
        """
        if size == self.world:
            return distributed.group.WORLD
        members = (range(first, first + size) for first in range(0, self.world, size))
        groups = [distributed.new_group(list(ranks), timeout=self.timeout) for ranks in members]
        return groups[self.rank // size]

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in few messages."""
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        filled = 0
        for tensor in tensors:
            if bucket and (filled + tensor.numel() > BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
                _sum_bucket(bucket)
                bucket, filled = [], 0
            bucket.append(tensor)
            filled += tensor.numel()
        if bucket:
            _sum_bucket(bucket)

    def meet(self) -> None:
        """Wait until all processes are here, however long their work takes. Raises SidaError when one of them is gone."""
        if self.meeting is not None:
            self.meeting.meet()
        elif self.world > 1:
            distributed.barrier(self.talk)

    def deal(self, count: int) -> Iterable[int]:
        """Numbers 0 to ``count`` - 1, each to one process, whenever one is free for the next; ``meet`` when all are done."""
        return self.share(count) if self.meeting is None else self.meeting.deal(count)

    def agree(self, flag: bool) -> bool:
        """Return whether any process says yes. Cheap: it travels beside the device's work and does not wait for it."""
        if self.world == 1:
            return flag
        votes = torch.tensor([int(flag)])
        distributed.all_reduce(votes, group=self.talk)
        return bool(votes.item())

    def total(self, counts: Tensor) -> list[int]:
        """The sum over all processes of a few int64 counts [N], on any device."""
        summed = counts.detach().cpu().clone()
        if self.world > 1:
            distributed.all_reduce(summed, group=self.talk)
        return [int(value) for value in summed.tolist()]

    def maximum(self, values: Tensor) -> list[float]:
        """The largest of all processes, element by element, of a few float64 values [N], on any device."""
        largest = values.detach().cpu().clone()
        if self.world > 1:
            distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self.talk)
        return [float(value) for value in largest.tolist()]

    def from_first(self, value: Any) -> Any:
        """Give the first process's value to all: a small JSON value, or None. It may take long to find out."""
        if self.world == 1:
            return value
        self.meet()
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([len(content)])
        distributed.broadcast(size, 0, group=self.talk)
        content = content if self.first else torch.empty(int(size), dtype=torch.uint8)
        distributed.broadcast(content, 0, group=self.talk)
        return json.loads(bytes(content.tolist()))


def _sum_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


@contextmanager
def joined(timeout: timedelta) -> Iterator[Processes]:
    """Join the job that a launcher or torchrun started (or be its only process): NCCL with a GPU, else gloo.

    A message that takes longer than ``timeout``, or a process that gives no sign of life for so long while others wait for it (it
    or the network between two machines is gone), raises an error. Raises UserError where the machine has fewer GPUs than processes.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    check_enough(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), devices.count())
    device = devices.claim(int(os.environ.get("LOCAL_RANK", 0)))
    talk = meeting = None
    if world > 1:
        store = _store(world, timeout)
        store.set_timeout(timeout)
        group = distributed.PrefixStore("group", store)
        backend = devices.BACKENDS[device.type]
        distributed.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=timeout)
        talk = distributed.new_group(backend="gloo", timeout=timeout) if devices.apart(device) else None
        meeting = Meeting(distributed.PrefixStore("meeting", store), rank, world, timeout)
    try:
        machine = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
        yield Processes(rank, world, device, talk, meeting, machine, timeout)
    finally:
        if meeting is not None:
            meeting.close()
            distributed.destroy_process_group()
    if meeting is not None:
        meeting.leave()


def _store(world: int, timeout: timedelta) -> distributed.Store:
    """Return the store that the job's processes share: in torchrun's agent or, under a launcher of ours, in rank 0."""
    if LISTENER not in os.environ:
        return cast(distributed.Store, next(distributed.rendezvous("env://", timeout=timeout))[0])
    address, port, descriptor = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ.pop(LISTENER))
    os.set_inheritable(descriptor, False)
    return distributed.TCPStore(
        *(address, port, world, True, timeout),
        master_listen_fd=descriptor,
        use_libuv=False,  # which takes no socket of ours before torch 2.8
    )
