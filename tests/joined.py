"""Processes of a test, joined by gloo."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes

from sida.worker.ranks import Processes

# Processes forked from one that has imported these and done nothing else: to import them anew takes seconds.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.joined", "torch.distributed.fsdp", "sida.training.distill_loop"])


def in_processes(world: int, task: Callable[..., None], *arguments: Any) -> None:
    """Call ``task(processes, *arguments)`` in so many processes, joined by gloo, with this one's environment.

    Raises what torch's ``start_processes`` raises when one of them fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = (world, f"{folder}/rendezvous", dict(os.environ), task, arguments)
        start_processes(_process, given, nprocs=world, start_method="forkserver")


def _process(
    rank: int,
    world: int,
    rendezvous: str,
    environment: dict[str, str],
    task: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    task(Processes(rank, world, torch.device("cpu")), *arguments)
    distributed.barrier()
    distributed.destroy_process_group()
