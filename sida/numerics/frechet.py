"""Frechet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500), in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Moments:
    """Running count, sum and outer product of features, float64: mergeable in any order, and over processes by addition."""

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.sum = torch.zeros(features, dtype=torch.float64, device=device)
        self.outer = torch.zeros(features, features, dtype=torch.float64, device=device)

    @classmethod
    def from_state(cls, state: Sequence[Tensor]) -> Moments:
        """Build from :meth:`state`; the tensors are copied. Raises ValueError if their shapes do not fit together."""
        count, total, outer = state
        if total.ndim != 1 or outer.shape != (len(total), len(total)):
            raise ValueError(f"moments of shapes {tuple(total.shape)} and {tuple(outer.shape)} do not fit together")
        moments = cls(len(total), total.device)
        for own, given in zip(moments.state(), (count, total, outer), strict=True):
            own.copy_(given)
        return moments

    def state(self) -> list[Tensor]:
        """[count int64 [], sum float64 [F], outer float64 [F, F]]: the tensors themselves, so that a sum over processes in
        place updates the moments."""
        return [self.count, self.sum, self.outer]

    def add(self, features: Tensor) -> None:
        """Add features [N, F] of any float dtype. Raises ValueError for another width."""
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise ValueError(f"expected features [N, {len(self.sum)}], not {list(features.shape)}")
        features = features.detach().to(self.sum)
        self.count += len(features)
        self.sum += features.sum(dim=0)
        self.outer.addmm_(features.T, features)

    def merge(self, other: Moments) -> None:
        """Add another's samples."""
        for own, theirs in zip(self.state(), other.state(), strict=True):
            own += theirs

    def mean_cov(self, ddof: int = 0) -> tuple[Tensor, Tensor]:
        """Mean [F] and covariance [F, F], over N (the SiD authors' code) or, with ddof 1, over N - 1 (NVIDIA's references).

        Raises ValueError with too few samples.
        """
        count = int(self.count)
        if count <= ddof:
            raise ValueError(f"a covariance over N - {ddof} needs more than {count} samples")
        mean = self.sum / count
        return mean, (self.outer - count * mean.outer(mean)) / (count - ddof)


def frechet_distance(
    mu1: Tensor | np.ndarray, sigma1: Tensor | np.ndarray, mu2: Tensor | np.ndarray, sigma2: Tensor | np.ndarray
) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), means [F] and covariances [F, F]; computed in float64 where they live.

    tr sqrt(S1 S2) is the sum of the roots of the eigenvalues of F^T S2 F, F F^T = S1: symmetric, so it is real and stays
    accurate for singular covariances, where the general matrix root does not. Rounding's negative eigenvalues count as 0:
    those that ``check_covariance`` allows, with m the largest entry or squared mean, from which a covariance was subtracted.
    Raises ValueError for entries that are not finite, and for matrices that are no covariances.

    >>> one, two = torch.eye(2), 4 * torch.eye(2)
    >>> frechet_distance(torch.zeros(2), one, torch.tensor([3.0, 0.0]), two)  # 3^2 + 2 (1 - 2)^2
    11.0
    """
    mu1, sigma1, mu2, sigma2 = (torch.as_tensor(a).to(torch.float64) for a in (mu1, sigma1, mu2, sigma2))
    if mu1.shape != mu2.shape or any(sigma.shape != (len(mu1), len(mu1)) for sigma in (sigma1, sigma2)):
        shapes = ", ".join(str(list(a.shape)) for a in (mu1, sigma1, mu2, sigma2))
        raise ValueError(f"means and covariances of shapes {shapes} do not fit together")
    if not all(bool(a.isfinite().all()) for a in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("the means or covariances of a Frechet distance are not finite")
    for sigma in (sigma1, sigma2):
        _refuse_asymmetric(sigma)
    try:
        squared = max((float(mu.square().max()) for mu in (mu1, mu2) if len(mu)), default=0.0)
        eigenvalues = torch.linalg.eigvalsh(_congruent(*_factor(sigma1, sigma2, squared)))
    except torch.linalg.LinAlgError as error:  # products beyond float64
        raise ValueError("the covariances of a Frechet distance are too large to be multiplied") from error
    difference = mu1 - mu2
    roots = eigenvalues.clamp_min(0).sqrt().sum()
    distance = float(difference @ difference + sigma1.trace() + sigma2.trace() - 2 * roots)
    if not math.isfinite(distance):
        raise ValueError("the means or covariances of a Frechet distance are too large: it is not finite")
    return distance


def check_covariance(sigma: Tensor) -> None:
    """Raise ValueError for a matrix [F, F] that is no covariance, beyond what rounding explains.

    With u = 2^-52 and the largest entry m, an eigenvalue may be 1000 F u m below 0, and a variance too: a sum over N images is
    off by about sqrt(N) u, for up to a million of them 1000 u, and if every entry is off by at most e, no eigenvalue moves by
    more than F e. Where all entries are numbers of float32 an eigenvalue may be 2 sqrt(F) 2^-23 m below 0: their errors are
    independent, and such a matrix moves eigenvalues by about sqrt(F) e.
    """
    sigma = sigma.to(torch.float64)
    _refuse_asymmetric(sigma)
    _refuse_indefinite(sigma)


_ASYMMETRY = 1e-6  # of the largest entry; float32 statistics stay within it
_GIVEN_BACK = 1e-11  # of the largest variance: rounding's size for thousands of features
_SUMMED = 1000  # units that the sum over a million images is off by, as its square root
_LOW_RANK = 0.9  # of the features: above it the other one's Cholesky factor is less work, and few roots are of 0
_PROBES = 32  # an entry that is wrong escapes one of them with a chance of at most 1/2


def _factor(one: Tensor, two: Tensor, scale: float) -> tuple[Tensor, Tensor, bool]:
    """Return F [n, r] with F F^T = one of the two, the other, and whether F is lower triangular.

    The distance is the same whichever is factored: the one of low rank, a covariance of few samples, where there is one, so
    that the rest of the work shrinks with it. Raises ValueError if either is no covariance; ``scale``: the largest squared mean.
    """
    tried = [(covariance, *torch.linalg.cholesky_ex(covariance)) for covariance in (one, two)]
    # The leading minor at which Cholesky's method fails hints at the rank; a wrong hint costs time only.
    (least, low, _), (most, high, triangle) = sorted(
        ((int(failed) or len(one) + 1, covariance, factor) for covariance, factor, failed in tried), key=lambda t: t[0]
    )
    regular = most > len(one)
    if not regular:
        _refuse_indefinite(high, scale)
    if (not regular or least <= _LOW_RANK * len(one)) and (factor := _pivoted(low)) is not None:
        return factor, high, False
    if least <= len(one):
        _refuse_indefinite(low, scale)
    if regular:
        return triangle, low, True
    values, vectors = torch.linalg.eigh(low)
    kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt(), high, False


def _congruent(factor: Tensor, sigma: Tensor, triangular: bool, block: int = 256) -> Tensor:
    """The lower triangle of F^T S F [r, r], which is all that eigvalsh reads: half the work, a third if F is lower triangular."""
    product = factor.new_zeros(factor.shape[1], factor.shape[1])
    for start in range(0, len(product), block):
        top = start if triangular else 0  # the rows above hold zeros
        columns = sigma[top:, top:] @ factor[top:, start : start + block]
        product[start:, start : start + block] = factor[top:, start:].T @ columns
    return product


def _pivoted(sigma: Tensor, block: int = 128) -> Tensor | None:
    """F [n, r] with F F^T = sigma of low rank r, by Cholesky's method on blocks of the largest remaining variances.

    Some 2 n r^2 operations, where all eigenvectors take 9 n^3. None where the product is not sigma again: no covariance.
    """
    size, largest = len(sigma), float(sigma.diagonal().max())
    least = size * torch.finfo(torch.float64).eps * largest
    left = sigma.diagonal().clone()
    factor = sigma.new_zeros(size, size)
    rank = 0
    while rank < size:
        chosen = left.topk(min(block, size - rank)).indices
        chosen = chosen[left[chosen] > least]
        if not len(chosen):
            break
        rest = sigma[chosen].T - factor[:, :rank] @ factor[chosen, :rank].T
        values, vectors = torch.linalg.eigh(rest[chosen])
        kept = values > least
        if not bool(kept.any()):
            break
        columns = rest @ (vectors[:, kept] / values[kept].sqrt())
        factor[:, rank : rank + columns.shape[1]] = columns[:, : size - rank]
        rank = min(size, rank + columns.shape[1])
        left -= columns.square().sum(dim=1)
    factor = factor[:, :rank]
    signs = torch.randint(0, 2, (size, _PROBES), generator=torch.Generator().manual_seed(0)).to(sigma) * 2 - 1
    back = sigma @ signs - factor @ (factor.T @ signs)
    return factor if float(back.abs().max()) <= _GIVEN_BACK * largest else None


def _refuse_asymmetric(sigma: Tensor) -> None:
    if float((sigma - sigma.T).abs().max()) > _ASYMMETRY * float(sigma.abs().max()):
        raise ValueError("a covariance is not symmetric")


def _refuse_indefinite(sigma: Tensor, scale: float = 0.0) -> None:
    """Refuse an indefinite matrix by a Cholesky factor of it with the small shift of rounding; without one, eigenvalues decide."""
    if not len(sigma):
        return
    size, largest = len(sigma), float(sigma.abs().max())
    rounding = _SUMMED * size * torch.finfo(torch.float64).eps * max(largest, scale)
    least = float(sigma.diagonal().min())  # whose sign no rounding to float32 changes
    if least >= -rounding:
        if bool((sigma.float() == sigma).all()):
            rounding = max(rounding, 2 * math.sqrt(size) * torch.finfo(torch.float32).eps * largest)
        _, failed = torch.linalg.cholesky_ex(sigma + rounding * torch.eye(size).to(sigma))
        if not int(failed):
            return
        least = float(torch.linalg.eigvalsh(sigma)[0])
    if least < -rounding:
        raise ValueError(
            f"a covariance is not positive semi-definite (an eigenvalue is {least:.3g} or less): no statistics of features"
        )


def sampling_bias(sigma: Tensor, count: int) -> float:
    """Return the score of ``count`` samples of a Gaussian of covariance ``sigma`` [F, F] against it, to first order in 1 / count.

    The mean's error gives tr S / n; the covariance's gives 1 / 2n times the sum of a b (1 + [i = j]) / (a + b) over all pairs
    of eigenvalues (the Bures metric). Raises ValueError for count < 1.
    """
    if count < 1:
        raise ValueError("a sample has at least one member")
    values = torch.linalg.eigvalsh(sigma.to(torch.float64)).clamp_min(0)
    sums = values[:, None] + values
    pairs = torch.where(sums > 0, values[:, None] * values / sums, torch.zeros_like(sums))
    return float((values.sum() + 0.5 * (pairs.sum() + pairs.trace())) / count)
