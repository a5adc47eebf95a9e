"""The course of a distillation: losses and health as means over equal windows of images, scores at single points.

Nothing waits for the device but the end of a window. The unfinished window travels in the checkpoint, so that a run that was killed
and continued has the points of one that was not: none twice, none missing, equal to the six digits that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sida.worker.ranks import Processes

POINTS = 200  # windows of a whole run
SUMMED = ("dropped",)  # counts; everything else is averaged


class History:
    """Points in order of images seen: ``{"images": 2048, "loss_psi": 0.41, ..., "score": 1.3}``; a point may hold scores alone."""

    def __init__(self, images: int, batch: int, processes: Processes) -> None:
        """``images`` in all, ``batch`` in an iteration."""
        self.every = max(batch, images // POINTS)
        self.batch, self.processes = batch, processes
        self.points: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, seen: int, values: dict[str, Tensor], last: bool = False) -> None:
        """The values of this process's iteration that ended at ``seen`` images; all processes call it alike."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().to(torch.float64)
            self._counts[name] = self._counts.get(name, 0) + 1
        if last or (seen - self.batch) // self.every != seen // self.every:
            self._close(seen)

    def _close(self, seen: int) -> None:
        names = sorted(self._sums)
        self.processes.sum_(self._sums[name] for name in names)
        for name in names:
            share = 1 if name in SUMMED else self._counts[name] * self.processes.world
            self.note(seen, name, float(self._sums[name]) / share)
        self._sums, self._counts = {}, {}

    def note(self, seen: int, name: str, value: float) -> None:
        """One value at one point; what is not a number leaves a gap."""
        if not math.isfinite(value):
            return
        if not self.points or self.points[-1]["images"] != seen:
            self.points.append({"images": seen})
        self.points[-1][name] = float(f"{value:.6g}")

    # In a checkpoint: the first process keeps the sums of all, which continue as its own; on another number of processes as if
    # they were of so many, for a mean is one over the processes of its window's end.

    def state_dict(self) -> dict[str, Any]:
        """Points and the open window, which goes on as if nothing had happened; all processes call it alike."""
        names = sorted(self._sums)
        self.processes.sum_(self._sums[name] for name in names)
        sums = {name: float(self._sums[name]) for name in names}
        state = {"points": self.points, "counts": self._counts, "sums": sums, "world": self.processes.world}
        if not self.processes.first:
            self._sums = {name: torch.zeros_like(value) for name, value in self._sums.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from a checkpoint."""
        self.points, self._counts = state["points"], dict(state["counts"])
        world = self.processes.world
        more = world / state.get("world", world)  # older ones do not say
        sums = {name: value * (1 if name in SUMMED else more) for name, value in state["sums"].items()}
        mine = sums if self.processes.first else dict.fromkeys(sums, 0.0)
        device = self.processes.device
        self._sums = {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in mine.items()}
