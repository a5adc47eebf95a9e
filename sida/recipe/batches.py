"""How a batch is divided: among processes, and into rounds. A loss group may span processes, but never two rounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, isqrt


@dataclass(frozen=True)
class BatchDivision:
    """Part of a batch that each process has."""

    share: int  # images of each process
    micro_batch: int  # of these, in a round
    span: int = 1  # consecutive processes that hold a loss group together; 1: each holds whole ones

    @property
    def rounds(self) -> int:
        """Micro-batches that each process accumulates."""
        return self.share // self.micro_batch

    def first(self, rank: int, number: int) -> int:
        """Return where in the batch the micro-batch of a process begins, in the round of this number.

        ``span`` processes have ``span`` shares that follow one another. In each round they take the next images of these,
        a micro-batch each, so that a loss group is in one round. Alone (span 1) a process goes through a share of its own.

        >>> division = divide_batch(batch=16, loss_group=4, processes=4, micro_batch=2)
        >>> [[division.first(rank, number) for rank in range(4)] for number in range(2)]
        [[0, 2, 8, 10], [4, 6, 12, 14]]
        """
        place = rank % self.span
        return (rank - place) * self.share + (number * self.span + place) * self.micro_batch


def divide_batch(batch: int, loss_group: int, processes: int, micro_batch: int | None = None) -> BatchDivision:
    """Return the division into micro-batches of this size, a multiple of the loss group or a part that several processes complete.

    None, or a whole share and more: the share or, where loss groups do not divide it, the largest part of a group that does.
    ``batch`` holds whole groups. Raises ValueError if batch or share do not divide so.
    """
    share, rest = divmod(batch, processes)
    if rest:
        possible = ", ".join(map(str, divisors(batch)))
        raise ValueError(
            f"method.batch {batch} does not divide among {processes} processes: use {possible} "
            f"(execution.processes, or SIDA_WORKERS)"
        )
    whole = share if share % loss_group == 0 else gcd(share, loss_group)
    micro = whole if micro_batch is None or micro_batch >= share else micro_batch
    if not _divides(share, micro, loss_group, processes):
        possible = ", ".join(map(str, micro_batches(batch, loss_group, processes)))
        raise ValueError(
            f"execution.micro_batch {micro}: each process's share of {share} images makes whole loss groups of {loss_group} "
            f"(method.loss_group) with: {possible}: set it to one of them"
        )
    return BatchDivision(share, micro, max(1, loss_group // micro))


def micro_batches(batch: int, loss_group: int, processes: int) -> list[int]:
    """Return all sizes of a micro-batch that the share of each process divides into."""
    share = batch // processes
    return [size for size in divisors(share) if _divides(share, size, loss_group, processes)]


def divisors(number: int) -> list[int]:
    """Return all numbers that divide this one, in order."""
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _divides(share: int, micro: int, loss_group: int, processes: int) -> bool:
    alone = micro % loss_group == 0
    together = loss_group % micro == 0 and processes % (loss_group // micro) == 0
    return share % micro == 0 and (alone or together)
