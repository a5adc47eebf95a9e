"""In-loop evaluation: the batch that fits, and pictures of what the generator makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from sida import devices
from sida.data.shards import one_hot
from sida.scoring.protocol import MakeImages, pixels_of
from sida.worker.ranks import Processes


def largest_batch(make: MakeImages, detector: nn.Module, classes: int, limit: int, processes: Processes) -> int:
    """Images that generator and detector hold at once: ``limit``, halved as often as any process's GPU needs; the same for all."""
    batch = limit
    if devices.apart(processes.device):
        while batch > 1 and not _fits(make, detector, classes, batch, processes.device):
            batch //= 2
        processes.meet()
    return int(-processes.maximum(torch.tensor([-batch], dtype=torch.float64))[0])


def _fits(make: MakeImages, detector: nn.Module, classes: int, batch: int, device: torch.device) -> bool:
    seeds = torch.arange(batch, device=device)
    try:
        with torch.no_grad():
            images = make(seeds, one_hot(torch.zeros(batch, dtype=torch.int64), classes).to(device))
            detector(pixels_of(images, 0))
    except torch.OutOfMemoryError:
        devices.release_memory(device)
        return False
    return True


def sample_grid(make: MakeImages, classes: int, title: str, device: torch.device) -> bytes:
    """PNG of the images of seeds 0, 1, ...; a column for each of up to ten classes."""
    from sida.report.grid import GRID_COLUMNS, GRID_ROWS, Panel, draw_panels

    seeds = torch.arange(GRID_ROWS * GRID_COLUMNS, device=device)
    labels = one_hot(seeds.cpu() % GRID_COLUMNS % max(classes, 1), classes).to(device)
    with torch.no_grad():
        images = make(seeds, labels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        draw_panels(path, [Panel(title, images)])
        return path.read_bytes()
