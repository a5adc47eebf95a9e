"""One process of a job of many, alone: what it sends is noted, and what the first process says is played back to the others.

The groups are torch's fake ones, which take every message and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from sida.worker.ranks import Processes
from tests.accelerator.device import device


class Message(NamedTuple):
    """What one process takes part in, beside all others."""

    what: str  # an operator of c10d; "meet" or "deal", which go through torch's store
    group: str = ""  # "tensors", "talk", or "part": consecutive processes
    device: str = ""
    dtype: str = ""
    elements: int = 0


class Notes:
    """The messages of one process, in order, and the contents of what the first one broadcasts."""

    def __init__(self, said: list[Tensor] | None = None) -> None:
        """``said``: the first process's broadcasts; None: this is the first."""
        self.messages: list[Message] = []
        self.said: list[Tensor] = []
        self._heard = None if said is None else iter(said)

    def note(self, name: str, group: str, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            kind, dtype = tensor.device.type, str(tensor.dtype).removeprefix("torch.")
            self.messages.append(Message(name, group, kind, dtype, tensor.numel()))
            if name == "broadcast_" and self._heard is not None:
                tensor.copy_(next(self._heard))
            elif name == "broadcast_":
                self.said.append(tensor.clone())


class _Noting(TorchDispatchMode):
    def __init__(self, notes: Notes, talk: Any) -> None:
        super().__init__()
        self._notes = notes
        self._names = {distributed.group.WORLD.group_name: "tensors", talk.group_name: "talk"}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        if space == "c10d":
            group = distributed.ProcessGroup.unbox(next(one for one in args if isinstance(one, torch.ScriptObject)))
            kind = self._names.get(group.group_name, "part")
            self._notes.note(name, kind, args[0] if isinstance(args[0], list) else [args[0]])
        return func(*args, **(kwargs or {}))


class _Meeting:
    """All are here at once; the first process is the fastest and takes every piece."""

    def __init__(self, notes: Notes, first: bool) -> None:
        self._notes, self._first = notes, first

    def meet(self) -> None:
        self._notes.messages.append(Message("meet"))

    def deal(self, count: int) -> Iterator[int]:
        self._notes.messages.append(Message("deal", elements=count))
        yield from range(count if self._first else 0)


@contextmanager
def process_of(rank: int, world: int, said: list[Tensor] | None = None) -> Iterator[tuple[Processes, Notes]]:
    """The process of this rank among ``world``, with the notes of what it sends; ``said``: what the first one broadcast."""
    notes = Notes(said)
    distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        talk = distributed.new_group(backend="fake")
        meeting: Any = _Meeting(notes, rank == 0)
        with _Noting(notes, talk):
            yield Processes(rank, world, device(), talk, meeting), notes
    finally:
        distributed.destroy_process_group()
