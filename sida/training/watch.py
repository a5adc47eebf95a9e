"""Counting what went wrong, on the device: samples that were skipped and losses that were not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sida.worker.ranks import Processes


@dataclass(frozen=True)
class Trouble:
    """What all processes counted. ``seen``: images seen at the last trouble; ``sigma``: noise levels of the samples concerned."""

    skipped: int = 0
    non_finite: int = 0
    seen: int | None = None
    sigma: tuple[float, float] | None = None

    def __str__(self) -> str:
        text = f"{self.skipped} samples skipped, {self.non_finite} losses not finite"
        if self.sigma is not None:
            text += f", last in the iteration at {self.seen:,} images, sigma {self.sigma[0]:.4g} to {self.sigma[1]:.4g}"
        return text


class Watch:
    """One process's counts; nothing here waits for the device until it is read."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # skipped samples, non-finite losses
        self.seen = torch.full((), -1, dtype=torch.int64, device=device)
        self.low = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self.high = torch.full((), -torch.inf, dtype=torch.float64, device=device)

    def note(self, seen: int, sigma: Tensor, keep: Tensor, total: Tensor) -> None:
        """After a round: sigma [B], keep bool [B] (which samples stayed), total [] (the loss to be minimised)."""
        finite = torch.isfinite(total.detach())
        bad = ~(keep & finite)
        self.counts += torch.stack([(~keep).sum(), (~finite).to(torch.int64)])
        self.seen = torch.where(bad.any(), seen, self.seen)
        noise = sigma.detach().flatten().to(torch.float64)
        self.low = torch.minimum(self.low, torch.where(bad, noise, torch.inf).min())
        self.high = torch.maximum(self.high, torch.where(bad, noise, -torch.inf).max())

    def read(self, processes: Processes, before: Trouble) -> Trouble:
        """``before`` (of the run so far) and what all processes have counted since; waits for the device."""
        skipped, non_finite = processes.total(self.counts)
        extremes = processes.maximum(torch.stack([self.seen.to(torch.float64), -self.low, self.high]))
        if extremes[0] < 0:
            return before
        low, high = -extremes[1], extremes[2]
        if before.sigma is not None:
            low, high = min(low, before.sigma[0]), max(high, before.sigma[1])
        return Trouble(before.skipped + skipped, before.non_finite + non_finite, int(extremes[0]), (low, high))
