"""Inception Score (Salimans et al., arXiv 1606.03498)."""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over consecutive splits of exp(E KL(p(y|x) || p(y))).

    ``probabilities``: [N, classes] of any float dtype, rows sum to 1 (softmax of the detector's logits without the output bias).
    Raises ValueError if N < splits.
    """
    count = len(probabilities)
    if not 1 <= splits <= count:
        raise ValueError(f"{count} rows do not make {splits} splits")
    p = probabilities.to(torch.float64)
    scores = []
    for split in range(splits):
        part = p[split * count // splits : (split + 1) * count // splits]
        marginal = part.mean(dim=0, keepdim=True)
        # xlogy: a class of probability 0 adds nothing.
        kl = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(dim=1)
        scores.append(kl.mean().exp())
    result = torch.stack(scores)
    return float(result.mean()), float(result.std(correction=0))
