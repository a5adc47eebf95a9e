"""Who writes what of a checkpoint. Each tensor has one owner, to which it goes whole; no process gathers two at a time.

Where no tensor is divided, the first process owns them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, distributed

from sida.training.division import divided, first_replica, group_of, local

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def owners_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Rank of each tensor's owner: the same on all processes, with about the same number of bytes for each owner.

    Owners are the processes that hold the first replica of what is divided.
    """
    holders = {name: first_replica(tensor) for name, tensor in tensors.items() if divided(tensor)}
    everybody = sorted(set().union(*holders.values())) or [0]
    dealt = dict.fromkeys(everybody, 0)
    owners = {}
    for name in sorted(tensors, key=lambda name: (-_size(tensors[name]), name)):
        owners[name] = min(holders.get(name, everybody), key=lambda rank: (dealt[rank], rank))
        dealt[owners[name]] += _size(tensors[name])
    return {name: owners[name] for name in tensors}


def owned(tensors: Mapping[str, Tensor], owners: Mapping[str, int], rank: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that this process owns, whole, in order; all processes are to go through it, with the same tensors."""
    for name, tensor in tensors.items():
        mine = owners[name] == rank
        if divided(tensor):
            if rank in first_replica(tensor):
                whole = _gather(cast("DTensor", tensor), owners[name], rank)
                if whole is not None:
                    yield name, whole
                del whole  # before there is another
        elif mine:
            yield name, local(tensor)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gather(tensor: DTensor, owner: int, rank: int) -> Tensor | None:
    """The whole tensor, in its owner's process; None in the others. Called by the holders of the first replica."""
    holders, mine = first_replica(tensor), local(tensor).contiguous()
    if len(holders) == 1:
        return mine
    group = group_of(tensor)
    if rank != owner:
        _exchange([distributed.P2POp(distributed.isend, _bytes(mine), owner, group)] if mine.numel() else [])
        return None
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=mine.device)
    chunks = list(whole.chunk(len(holders)))  # DTensor's own rule; there may be fewer
    pieces = dict(zip(holders, chunks + [whole[:0]] * (len(holders) - len(chunks)), strict=True))
    assert pieces[rank].shape == mine.shape, (
        f"{list(mine.shape)} of {list(whole.shape)} are here, not {pieces[rank].shape}"
    )
    pieces[rank].copy_(mine)
    others = [(holder, piece) for holder, piece in pieces.items() if holder != rank and piece.numel()]
    _exchange([distributed.P2POp(distributed.irecv, _bytes(piece), holder, group) for holder, piece in others])
    return whole


def _exchange(messages: list[distributed.P2POp]) -> None:
    if messages:
        for work in distributed.batch_isend_irecv(messages):
            work.wait()


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory: every backend can send bytes, whatever they stand for."""
    return tensor.view(-1).view(torch.uint8)
