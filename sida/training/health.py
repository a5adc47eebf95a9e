"""Samples that were skipped and losses that were not finite: counted on the device, dumped when they end a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sida.layout import dump_name
from sida.training.owners import owned, owners_of
from sida.worker.job import Job
from sida.worker.ranks import Processes


@dataclass(frozen=True)
class NonFinite:
    """Counts over all processes. ``seen``: images seen at the last case; ``sigma``: noise levels of the samples concerned."""

    skipped: int = 0
    non_finite: int = 0
    seen: int | None = None
    sigma: tuple[float, float] | None = None

    def __str__(self) -> str:
        text = f"{self.skipped} samples skipped, {self.non_finite} losses not finite"
        if self.sigma is not None:
            text += f", last in the iteration at {self.seen:,} images, sigma {self.sigma[0]:.4g} to {self.sigma[1]:.4g}"
        return text


class HealthCounter:
    """One process's counts, on top of what all had counted before; nothing waits for the device until it is read."""

    def __init__(self, processes: Processes) -> None:
        device = processes.device
        self._processes, self._before = processes, NonFinite()
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # skipped samples, non-finite losses
        self.seen = torch.full((), -1, dtype=torch.int64, device=device)
        self.low = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self.high = torch.full((), -torch.inf, dtype=torch.float64, device=device)

    def note(self, seen: int, sigma: Tensor, keep: Tensor, total: Tensor) -> None:
        """After a round: sigma [B], keep bool [B] (which samples stayed), total [] (the loss to be minimized)."""
        finite = torch.isfinite(total.detach())
        bad = ~(keep & finite)
        self.counts += torch.stack([(~keep).sum(), (~finite).to(torch.int64)])
        self.seen = torch.where(bad.any(), seen, self.seen)
        noise = sigma.detach().flatten().to(torch.float64)
        self.low = torch.minimum(self.low, torch.where(bad, noise, torch.inf).min())
        self.high = torch.maximum(self.high, torch.where(bad, noise, -torch.inf).max())

    def read(self) -> NonFinite:
        """Counts of all processes, which call it alike; waits for the device."""
        before = self._before
        skipped, non_finite = self._processes.total(self.counts)
        extremes = self._processes.maximum(torch.stack([self.seen.to(torch.float64), -self.low, self.high]))
        if extremes[0] < 0:
            return before
        low, high = -extremes[1], extremes[2]
        if before.sigma is not None:
            low, high = min(low, before.sigma[0]), max(high, before.sigma[1])
        return NonFinite(before.skipped + skipped, before.non_finite + non_finite, int(extremes[0]), (low, high))

    def state_dict(self) -> dict[str, Any]:
        """The counts of all processes."""
        return asdict(self.read())

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Count on from there."""
        self._before = NonFinite(**{**state, "sigma": tuple(state["sigma"]) if state["sigma"] else None})


def write_dump(job: Job[Any], seen: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Publish the facts of a failure, and the tensors as they are; returns the address of the facts.

    All processes call it; of tensors that are divided among them, each owner publishes its own (``sida.training.owners``).
    """
    rank = job.processes.rank
    owners = owners_of(tensors)
    mine = {key: tensor.cpu().contiguous() for key, tensor in owned(tensors, owners, rank)}
    name = dump_name(seen)
    if rank and not mine:
        return job.store.address_of(f"{job.folder}/{name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.safetensors"
        save_file(mine, path)
        ref = job.put(path, path.name)
    job.publish(dump_name(seen, rank), json.dumps({**facts, "object": asdict(ref)}, indent=1).encode())
    return job.store.address_of(f"{job.folder}/{name}")
