"""The processes of one job: who we are, and sums over all of us."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

_BUCKET_ELEMENTS = 8 * 2**20  # gradients travel in pieces of at most 32 MiB


@dataclass(frozen=True)
class Processes:
    """Rank and number of the job's processes, and the device of this one."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's contiguous part of ``range(count)``; parts differ by at most one item."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in few messages."""
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        filled = 0
        for tensor in tensors:
            if bucket and (filled + tensor.numel() > _BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
                _sum_bucket(bucket)
                bucket, filled = [], 0
            bucket.append(tensor)
            filled += tensor.numel()
        if bucket:
            _sum_bucket(bucket)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes."""
        if self.world == 1:
            return flag
        votes = torch.tensor([int(flag)])
        distributed.all_reduce(votes.to(self.device) if distributed.get_backend() == "nccl" else votes)
        return bool(votes.item())


def _sum_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(_split(flat, tensors), tensors, strict=True)])


def _split(flat: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return flat.split([tensor.numel() for tensor in tensors])


@contextmanager
def joined(timeout: timedelta = timedelta(minutes=10)) -> Iterator[Processes]:
    """Join the job that torchrun started (or be its only process): NCCL with a GPU, else gloo."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if world > 1:
        distributed.init_process_group("nccl" if gpu else "gloo", timeout=timeout)
    try:
        yield Processes(rank, world, device)
    finally:
        if world > 1:
            distributed.destroy_process_group()
