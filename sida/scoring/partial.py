"""Parts of a long pass over images, kept in the job's folder: a killed job goes on with what is missing.

A part is a fixed piece of a range whatever the number of processes, and parts are merged in their order: the sums are the same
bits on one process and on eight, killed or not (given the same kind of device and the same batches inside a part).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors.torch import load, save

from sida.layout import part_name
from sida.progress import Progress
from sida.scoring.sums import Sums

if TYPE_CHECKING:
    from sida.worker.job import Job

PART_IMAGES = 2_000  # at 2048 features a part's moments are 32 MiB
PART_BYTES = 1 << 30  # what a part may have: 4,096 features have moments of 128 MiB
PARTS = 8  # at least this many in a small range, so that it too is shared and goes on where it stopped


@dataclass(frozen=True)
class Piece:
    """Images ``start`` to ``stop`` (numbers within the range) of range ``group``."""

    group: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its file in the job's folder."""
        return part_name(self.group, self.start, self.stop)


def pieces(groups: int, count: int) -> list[Piece]:
    """Return all pieces of ``groups`` ranges of ``count`` images, in order. Their size follows from ``count`` alone."""
    size = min(PART_IMAGES, math.ceil(count / PARTS))
    return [Piece(group, start, min(start + size, count)) for group in range(groups) for start in range(0, count, size)]


def gather(
    job: Job, work: list[Piece], sums_of: Callable[[Piece], Sums], report: Callable[[int], None] = lambda images: None
) -> None:
    """Make the pieces that the job's folder lacks, dealt to its processes as they become free. ``report`` gets image counts."""
    stored = set(job.store.list(f"{job.folder}/parts/"))
    missing = [piece for piece in work if f"{job.folder}/{piece.name}" not in stored]
    job.processes.meet()  # everybody has looked before anybody writes: all see the same list
    report(sum(piece.stop - piece.start for piece in set(work) - set(missing)))
    for number in job.processes.deal(len(missing)):
        job.publish(missing[number].name, save(sums_of(missing[number]).state()))
    job.processes.meet()


class ImageCount:
    """Progress in images, seen from one process: the others are taken to be as fast."""

    def __init__(self, job: Job, total: int) -> None:
        self.total, self.world = total, job.processes.world
        self.progress = Progress(job.step, total, "images") if job.processes.first else None
        self.before = self.own = 0
        self.started = time.time()

    def found(self, images: int) -> None:
        """Count the images made before this start."""
        self.before = images
        self.made(0)

    def made(self, images: int) -> None:
        """Count images that this process made."""
        self.own += images
        if self.progress:
            self.progress.update(min(self.before + self.own * self.world, self.total))

    def rate(self) -> float:
        """Return images a second, of those made since this start."""
        return (self.total - self.before) / max(time.time() - self.started, 1e-9)


def merged(job: Job, work: list[Piece], empty: Callable[[], Sums]) -> Iterator[Sums]:
    """Yield the sums of each range in turn, merged in the order of its pieces."""
    for group in sorted({piece.group for piece in work}):
        total = empty()
        for piece in work:
            if piece.group == group:
                total.merge(load(job.store.read(f"{job.folder}/{piece.name}", most=PART_BYTES)))
        yield total


def discard(job: Job, work: list[Piece]) -> None:
    """Delete the pieces: their sums have been published."""
    for piece in work:
        job.store.delete(f"{job.folder}/{piece.name}")
