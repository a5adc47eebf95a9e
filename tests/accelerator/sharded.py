"""Memory of one process whose networks are divided among many, counted on the fake device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.device_mesh import init_device_mesh

from sida.numerics.networks.build import build_network
from sida.recipe import Recipe
from sida.training import sharding
from sida.training.cost import EmptyDraws
from sida.training.division import local
from sida.training.execution import apply_execution
from sida.training.iteration import Distillation, Networks
from sida.training.memory import Held
from sida.worker.ranks import Processes
from tests.accelerator.device import device, moved, shapes
from tests.accelerator.made import EmptyData
from tests.accelerator.ranks import Notes, process_of


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
def shapes_among(world: int, rank: int = 0) -> Iterator[tuple[Processes, Notes]]:
    """``shapes()`` in one of so many processes, which share one copy, and what it sends; the others are not there."""
    with process_of(rank, world) as (processes, notes):
        mesh = init_device_mesh(device().type, (world,))  # torch looks at ranks, which have to be numbers
        with patch.object(sharding, "_mesh", lambda *_: mesh), shapes():
            yield processes, notes


def job_among(loaded: Recipe, images: int, processes: Processes) -> Distillation:
    """A recipe's distillation at full size, in its layout; two rounds of so many images in each process."""
    network, execution = loaded.teacher.network, loaded.execution
    method = loaded.method.model_copy(update={"batch": 2 * images * processes.world, "loss_group": images})
    networks = Networks.start(moved(build_network(network.model_dump(), method.dropout)))  # type: ignore[arg-type]
    apply_execution(networks, execution)
    sharding.divide(networks, execution, processes)
    return Distillation(networks, method, EmptyDraws(), EmptyData(network), processes, images)
