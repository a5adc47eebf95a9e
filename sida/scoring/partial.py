"""Parts of a long pass over images, kept in the job's folder: a killed job goes on with what is missing.

A part is a fixed piece of a range whatever the number of processes, and parts are merged in their order: the sums are the same
bits on one process and on eight, killed or not (given the same kind of device and the same batches inside a part).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sida.layout import part_name
from sida.scoring.sums import Sums

if TYPE_CHECKING:
    from sida.worker.job import Job

PART_IMAGES = 2_000  # at 2048 features a part's moments are 32 MiB
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
    report(sum(piece.stop - piece.start for piece in work) - sum(piece.stop - piece.start for piece in missing))
    for number in job.processes.deal(len(missing)):
        _save(job, missing[number], sums_of(missing[number]))
    job.processes.meet()


def merged(job: Job, work: list[Piece], empty: Callable[[], Sums]) -> Iterator[Sums]:
    """Yield the sums of each range in turn, merged in the order of its pieces."""
    from safetensors.torch import load

    for group in sorted({piece.group for piece in work}):
        total = empty()
        for piece in work:
            if piece.group == group:
                total.merge(load(job.store.read(f"{job.folder}/{piece.name}")))
        yield total


def discard(job: Job, work: list[Piece]) -> None:
    """Delete the pieces: their sums have been published."""
    for piece in work:
        job.store.delete(f"{job.folder}/{piece.name}")


def _save(job: Job, piece: Piece, sums: Sums) -> None:
    from safetensors.torch import save

    job.publish(piece.name, save(sums.state()))
