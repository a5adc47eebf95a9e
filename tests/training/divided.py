"""A small training whose tensors are divided among processes by FSDP2, its state, and jobs for it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sida.launch.spec import JobFile, LeaseRef, ManifestRef, TeachSpec
from sida.settings import settings
from sida.stores import open_store
from sida.stores.lease import acquire
from sida.training.checkpoint import CHECKSUM, Checkpoint, newest
from sida.training.division import own_rows
from sida.training.state import Parts, State, assign
from sida.training.writer import Writer
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.jobs import job_file
from tests.training.digits_job import recipe

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Tensors whose rows divide by 2 and 4, by neither, and by nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.uneven, self.one = nn.Linear(3, 8), nn.Linear(4, 5), nn.Linear(6, 1, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("table", torch.zeros(3))
        self.register_buffer("nothing", torch.zeros(0, 3))


class Moments:
    """As an optimizer's: two tensors for each parameter, of its division, and a number."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def load_state_dict(self, state: State, /) -> None:
        for name, parameter in self.network.named_parameters():
            self.tensors[f"exp_avg/{name}"] = assign(torch.zeros_like(parameter.detach()), state, f"exp_avg/{name}")
            self.tensors[f"step/{name}"] = assign(torch.zeros(()), state, f"step/{name}")


def parts(shape: tuple[int, ...] = ()) -> Parts:
    """A network and moments, divided over a mesh of such a shape (of two dimensions: replicas, shards) unless it is empty."""
    network = Toy()
    if shape:
        names = ("replicate", "shard")[-len(shape) :]
        ignored = {network.scale}
        fully_shard(network, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names), ignored_params=ignored)
    return {"net": network, "adam": Moments(network)}


def reference(seed: int = 0) -> dict[str, Tensor]:
    """The whole tensors of such parts, by their names in a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, value in Toy().state_dict().items():
        tensors[f"net/{name}"] = torch.randn(value.shape, generator=generator)
    for name, value in Toy().named_parameters():
        tensors[f"adam/exp_avg/{name}"] = torch.randn(value.shape, generator=generator)
        tensors[f"adam/step/{name}"] = torch.tensor(float(seed + 1))
    tensors["net/even.weight"][0, 0] = torch.nan  # bits are kept whatever they stand for
    return tensors


def differing(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not, bit for bit, the rows of the whole ones that this process should have."""
    wrong = [*(tensors.keys() ^ whole.keys())]
    for name in tensors.keys() & whole.keys():
        mine, expected = tensors[name], whole[name]
        if isinstance(mine, DTensor):
            rows = own_rows(mine)
            mine, expected = mine.to_local(), expected[rows.start : rows.stop]
        if (
            mine.shape != expected.shape
            or mine.flatten().view(torch.uint8).ne(expected.flatten().view(torch.uint8)).any()
        ):
            wrong.append(name)
    return wrong


# -- jobs


@dataclass(frozen=True)
class Place:
    """A store with jobs of such trainings, that processes open for themselves."""

    folder: str

    @property
    def address(self) -> str:
        return f"file://{self.folder}/store"

    def file(self, name: str) -> JobFile:
        """What a launcher would write; it takes the lease anew."""
        store = open_store(self.address)
        chosen = recipe(Path(self.folder))
        with acquire(store, f"steps/{name}", ttl=600, wait=0.0, note=lambda text: None) as lease:
            ref = LeaseRef(key=lease.key, number=lease.number)
        spec = TeachSpec(dataset=ManifestRef(key="none", digest="0" * 64))
        return job_file(store, chosen, spec, f"jobs/teach/{name}/1", ref)

    def job(self, file: JobFile, processes: Processes | None = None) -> Job[Any]:
        """One process's view of it."""
        chosen = recipe(Path(tempfile.mkdtemp(dir=self.folder)))
        return Job(file, chosen, open_store(self.address), processes or Processes(0, 1, CPU))


def divide_newest(processes: Processes, folder: str, file: JobFile) -> None:
    """Write a job's newest checkpoint again, with its tensors divided among all processes."""
    chosen = recipe(Path(tempfile.mkdtemp(dir=folder)))
    job: Job[Any] = Job(file, chosen, open_store(settings().store), processes)
    found = newest(job)
    assert found is not None
    mesh = init_device_mesh("cpu", (processes.world,), mesh_dim_names=("shard",))
    tensors = {n: distribute_tensor(it, mesh, [Shard(0)]) if it.ndim else it for n, it in found.tensors.items()}
    writer = Writer(job, keep=2)
    writer.save(Checkpoint(found.seen, {n: value for n, value in found.values.items() if n != CHECKSUM}, tensors))
    writer.wait()
    writer.close()
