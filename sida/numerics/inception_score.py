"""Inception Score (Salimans et al., arXiv 1606.03498)."""

from __future__ import annotations

import torch
from torch import Tensor

SPLITS = 10


class SplitSums:
    """Sums that the score needs of each of ``splits`` consecutive parts of ``count`` rows: mergeable in any order.

    int64 counts [splits], float64 sums of p log p [splits] and of p [splits, classes].
    """

    def __init__(self, classes: int, count: int, splits: int = SPLITS, device: torch.device | str = "cpu") -> None:
        """Start at zero. Raises ValueError if count < splits."""
        if not 1 <= splits <= count:
            raise ValueError(f"{count} rows do not make {splits} splits")
        starts = [split * count // splits for split in range(1, splits)]
        self.starts = torch.tensor(starts, dtype=torch.int64, device=device)
        self.counts = torch.zeros(splits, dtype=torch.int64, device=device)
        self.entropy = torch.zeros(splits, dtype=torch.float64, device=device)
        self.total = torch.zeros(splits, classes, dtype=torch.float64, device=device)

    def state(self) -> list[Tensor]:
        """[counts, sums of p log p, sums of p]: the tensors themselves."""
        return [self.counts, self.entropy, self.total]

    def add(self, probabilities: Tensor, first_row: int) -> None:
        """Add rows [N, classes] of any float dtype that sum to 1; the first of them is row ``first_row`` of the whole."""
        p = probabilities.detach().to(self.total)
        rows = first_row + torch.arange(len(p), device=p.device)
        split = torch.bucketize(rows, self.starts, right=True)
        self.counts.index_add_(0, split, torch.ones_like(split))
        # xlogy: a class of probability 0 adds nothing.
        self.entropy.index_add_(0, split, torch.xlogy(p, p).sum(dim=1))
        self.total.index_add_(0, split, p)

    def merge(self, state: list[Tensor]) -> None:
        """Add another's rows."""
        for own, theirs in zip(self.state(), state, strict=True):
            own += theirs.to(own.device)

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over the splits of exp(E KL(p(y|x) || p(y)))."""
        marginal = self.total / self.counts[:, None]
        # E sum p log(p / m) = E sum p log p - sum m log m, m being the mean of p.
        kl = self.entropy / self.counts - torch.xlogy(marginal, marginal).sum(dim=1)
        scores = kl.exp()
        return float(scores.mean()), float(scores.std(correction=0))
