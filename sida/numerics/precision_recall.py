"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991)."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, DISTANCES = 10_000, 10**9  # at a time; a distance takes 6 bytes, float32 and half
NEIGHBORS = 3  # k


def precision_recall(
    real: Tensor, generated: Tensor, k: int = NEIGHBORS, dtype: torch.dtype = torch.float16, rows: int | None = None
) -> tuple[float, float]:
    """Share of generated samples inside the real manifold, and of real samples inside the generated one.

    Features [N, F] and [M, F]; as in the published metric they and the distances are rounded to ``dtype``. The manifold is the
    union of balls around each sample that reach its k-th neighbor (the (k+1)-th smallest distance, itself included); the
    boundary counts. ``rows`` bounds the memory: rows x max(N, M) distances at a time; None: ``rows_at_once``.

    Raises ValueError if a side has not more than k samples.
    """
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"k = {k} neighbors need more than {min(len(real), len(generated))} samples on each side")
    rows = rows or rows_at_once(max(len(real), len(generated)))
    real, generated = real.to(dtype), generated.to(dtype)
    precision = _inside(generated, real, _radii(real, k, rows), rows)
    recall = _inside(real, generated, _radii(generated, k, rows), rows)
    return precision, recall


def rows_at_once(points: int) -> int:
    """Return of how many rows the distances to so many points are held at a time: to ImageNet's, ten thousand rows' take 77 GB."""
    return max(1, min(ROWS, DISTANCES // points))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, F], [m, F] -> [n, m] Euclidean distances in the features' dtype, computed in float32 at least.

    Without the matrix-product shortcut, which loses the small distances that decide about neighbors.
    """
    accurate = torch.promote_types(x.dtype, torch.float32)
    return torch.cdist(x.to(accurate), y.to(accurate), compute_mode="donot_use_mm_for_euclid_dist").to(x.dtype)


def _radii(points: Tensor, k: int, rows: int) -> Tensor:
    nearest = (_distances(part, points).float().topk(k + 1, dim=1, largest=False).values for part in points.split(rows))
    return torch.cat([part[:, -1] for part in nearest])  # kthvalue has no deterministic kernel on GPUs


def _inside(probes: Tensor, points: Tensor, radii: Tensor, rows: int) -> float:
    inside = [(_distances(part, points).float() <= radii).any(dim=1) for part in probes.split(rows)]
    return float(torch.cat(inside).to(torch.float64).mean())
