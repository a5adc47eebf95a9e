"""Memory of one process whose networks are divided among many, counted on the fake device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.device_mesh import init_device_mesh

from sida.training import sharding
from sida.training.division import local
from sida.training.memory import Held
from sida.worker.ranks import Processes
from tests.accelerator.device import device, shapes
from tests.accelerator.ranks import process_of


class HeldShards(Held):
    """Sees the part of a divided tensor that this process has, and storages that FSDP2 empties and fills."""

    def add(self, values: Any) -> None:
        super().add([local(value) if isinstance(value, torch.Tensor) else value for value in values])

    @contextmanager
    def seeing(self) -> Iterator[HeldShards]:
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            made = resize(storage, size)
            self.resized(storage)
            return made

        with patch.object(torch.UntypedStorage, "resize_", resized), self:
            yield self


@contextmanager
def shapes_among(world: int) -> Iterator[Processes]:
    """``shapes()`` in the first of so many processes, which share one copy; the others are not there."""
    with process_of(0, world) as (processes, _):
        mesh = init_device_mesh(device().type, (world,))  # torch looks at ranks, which have to be numbers
        with patch.object(sharding, "_mesh", lambda *_: mesh), shapes():
            yield processes
