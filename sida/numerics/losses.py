"""Losses of SiD, SiDA and Uni-Instruct as functions of the networks' outputs (arXiv 2410.14919, algorithm 1; 2505.20755).

Tensors: images float32 [B, C, H, W]; sigma [B] (or [B, 1, 1, 1]); logits [B, 1, h, w]; logvar u(sigma) [B, 1, 1, 1]; B is the
micro-batch of one process. Nothing here synchronizes with the host.

A sample that holds a NaN in anything that was passed is dropped: its losses are exactly 0 and its logits do not enter a BCE
mean. ``keep`` says which samples stayed, so that the caller can count; the caller's divisor stays B.

A BCE is one number per loss group: the mean over ``group`` consecutive samples and all positions (None: the whole micro-batch).
Where several processes hold a group together, ``group`` is the part of this one, and ``over_group`` returns a small tensor's sum
over them; gradients are summed too, for the sum of the processes' losses is what is minimized. k is each sample's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sida.numerics.schedules import SIGMA_DATA

ERROR_FLOOR = 1e-5  # of the denominator of k
LOGIT_CLAMP = 10.0  # generator update only
LOG_RATIO_BOUND = 3.0  # Uni-Instruct: W lies between 1/20 and 20
INFINITE_GRADIENT = 1e5

OverGroup = Callable[[Tensor], Tensor]
MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)

# W and dW/d log r by log r, for r = p/q, p the data's density and q the generator's, both noised (docs/uni-instruct.md).
# For the mean over p of f(q/p) W is f''(1/r)/r; each f is scaled so that W = 1 where p = q. None: W is 1 everywhere.
DIVERGENCES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]] | None] = {
    "fkl": lambda log_r: (log_r.exp(), log_r.exp()),  # KL(p || q)
    "rkl": None,  # KL(q || p)
    "js": lambda log_r: (2 * log_r.sigmoid(), 2 * log_r.sigmoid() * (-log_r).sigmoid()),  # 4 JS(p, q)
    "chi2": lambda log_r: ((-log_r).exp(), -(-log_r).exp()),  # half of chi2(q || p), the mean over p of (q/p - 1)^2
    "fisher": None,  # E_q |grad log q - grad log p|^2: SiD
}


@dataclass(frozen=True)
class FakeScoreLosses:
    """loss_psi per element [B, C, H, W]; loss_D per sample [B, 1, 1, 1], None without logits; keep bool [B]."""

    loss_psi: Tensor
    loss_D: Tensor | None
    keep: Tensor


@dataclass(frozen=True)
class GeneratorLosses:
    """loss_sid per element [B, C, H, W]; loss_adv per sample [B, 1, 1, 1], times C*H*W, None without logits; keep bool [B]."""

    loss_sid: Tensor
    loss_adv: Tensor | None
    keep: Tensor


def loss_weight(sigma: Tensor) -> Tensor:
    """w = (sigma^2 + sd^2) / (sigma sd)^2, EDM table 1; same shape."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def denoising_loss(denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """A teacher's own loss, EDM equation 8, per element [B, C, H, W]: w (D(x + n; sigma) - x)^2."""
    return loss_weight(_column(sigma)) * (denoised - clean) ** 2


def fake_score_losses(
    y: Tensor,
    y_psi: Tensor,
    sigma: Tensor,
    l_fake: Tensor | None = None,
    l_real: Tensor | None = None,
    logvar: Tensor | None = None,
    group: int | None = None,
    over_group: OverGroup | None = None,
) -> FakeScoreLosses:
    """Phase A. y: what psi was to recover (augmented images, if so); y_psi = psi(y + n); logits as they are, not clamped.

    SiD passes no logits. Raises ValueError if only one of the two logit maps is given or ``group`` does not divide B.
    """
    if (l_fake is None) != (l_real is None):
        raise ValueError("the discriminator's loss needs the logits of generated and of real images")
    keep = kept_samples(y, y_psi, l_fake, l_real, logvar)
    y, y_psi, logvar = _masked(y, keep), _masked(y_psi, keep), _masked(logvar, keep)
    w = loss_weight(_column(sigma))
    # With logvar EDM2 equation 14, u counted once per element.
    loss_psi = w * (y_psi - y) ** 2 if logvar is None else w / logvar.exp() * (y_psi - y) ** 2 + logvar
    loss_D = None
    if l_fake is not None and l_real is not None:
        real, fake = _masked(l_real, keep), _masked(l_fake, keep)
        as_real = group_bce(real, True, keep, group, over_group)
        loss_D = w * (as_real + group_bce(fake, False, keep, group, over_group)) / 2
        loss_D = loss_D if logvar is None else loss_D / logvar.exp()
    return FakeScoreLosses(_masked(loss_psi, keep), _masked(loss_D, keep), keep)


def generator_losses(
    y: Tensor,
    y_phi: Tensor,
    y_psi: Tensor,
    alpha: float,
    logits: Tensor | None = None,
    logvar: Tensor | None = None,
    group: int | None = None,
    over_group: OverGroup | None = None,
    divergence: str | None = None,
) -> GeneratorLosses:
    """Phase B. y = G(z), y_phi and y_psi = the teacher's and the fake score's denoised y + n, logits = psi's for y + n.

    With a ``divergence`` (Uni-Instruct) the logits give weights instead of loss_adv (``divergence_weight``).
    Gradients flow through y, y_phi, y_psi and the logits, never through k. Raises ValueError if ``group`` does not divide B.
    """
    keep = kept_samples(y, y_phi, y_psi, logits, logvar)
    y, y_phi, y_psi, logvar = _masked(y, keep), _masked(y_phi, keep), _masked(y_psi, keep), _masked(logvar, keep)
    with torch.no_grad():
        accurate = torch.promote_types(y.dtype, torch.float32)
        error = (y.to(accurate) - y_phi.to(accurate)).abs().mean(dim=(1, 2, 3), keepdim=True)
        k = 1 / error.clamp_min(ERROR_FLOOR)
    loss_sid = (y_phi - y_psi) * ((y_phi - y) - alpha * (y_phi - y_psi)) * k
    if divergence is not None and logits is not None:
        W, slope = divergence_weight(_masked(logits, keep), divergence)
        loss_sid = W * loss_sid - slope / 2 * (y_phi - y_psi) ** 2 * k
    loss_adv = None
    if divergence is None and logits is not None:
        clamped = _masked(logits, keep).clamp(-LOGIT_CLAMP, LOGIT_CLAMP)
        loss_adv = group_bce(clamped, True, keep, group, over_group) * k * y[0].numel()
        loss_adv = loss_adv if logvar is None else loss_adv / logvar.exp()
    if logvar is not None:
        loss_sid = loss_sid / logvar.exp()
    return GeneratorLosses(_masked(loss_sid, keep), _masked(loss_adv, keep), keep)


def divergence_weight(logits: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """W and dW/d log r, both [B, 1, 1, 1], from the logits [B, 1, h, w] of what psi takes for real.

    The mean of a sample's logits stands for log r: a discriminator that is trained to the end has log r at each place. It is
    bounded by b tanh(log r / b), for one sample's r may outweigh a batch. Any positive W is that of some f, the bounded one too;
    but it has to be smooth: where its derivative jumps, as at a clamp, autograd misses a part of the gradient. Gradients flow
    through both, as W is a function of the noised image. Raises ValueError for a divergence without a weight.
    """
    weight = DIVERGENCES[divergence]
    if weight is None:
        raise ValueError(f"divergence {divergence} has no weight: pass no logits")
    share = (logits.mean(dim=(1, 2, 3), keepdim=True) / LOG_RATIO_BOUND).tanh()
    W, slope = weight(LOG_RATIO_BOUND * share)
    return W, slope * (1 - share**2)


def kept_samples(*tensors: Tensor | None) -> Tensor:
    """bool [B]: the samples without a NaN in any tensor [B, ...] given."""
    present = [~tensor.isnan().flatten(1).any(dim=1) for tensor in tensors if tensor is not None]
    return torch.stack(present).all(dim=0)


def group_bce(
    logits: Tensor, real: bool, keep: Tensor, group: int | None, over_group: OverGroup | None = None
) -> Tensor:
    """Binary cross-entropy against one class: logits [B, 1, h, w] -> [B, 1, 1, 1], equal within a loss group.

    Samples with keep False (bool [B]) count neither in the sum nor in the number; a group without any gives 0.
    """
    batch = len(logits)
    size = group or batch
    if batch % size:
        raise ValueError(f"a micro-batch of {batch} does not hold whole loss groups of {size}")
    per_sample = softplus(-logits if real else logits, threshold=50).flatten(1).mean(dim=1)
    per_sample = torch.where(keep, per_sample, 0)
    sums = per_sample.reshape(-1, size).sum(dim=1)
    counts = keep.reshape(-1, size).sum(dim=1)
    if over_group is not None:
        sums, counts = over_group(torch.stack([sums, counts.to(sums.dtype)]))
    return (sums / counts.clamp_min(1)).repeat_interleave(size)[:, None, None, None]


def sanitize_gradients(gradients: Iterable[Tensor], clip: float | None = None) -> None:
    """Clean in place: nan -> 0, +-inf -> +-1e5, then clip elements to [-clip, clip] (phase A of EDM recipes, adversarial term)."""
    together = list(gradients)
    for gradient in together:  # torch has no nan_to_num over a list
        torch.nan_to_num(gradient, nan=0.0, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT, out=gradient)
    if clip is not None and together:
        torch._foreach_clamp_max_(together, clip)
        torch._foreach_clamp_min_(together, -clip)


def _column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)


def _masked(tensor: MaybeTensor, keep: Tensor) -> MaybeTensor:
    """Replace dropped samples by 0, with a gradient of exactly 0 towards the replaced values. None stays None."""
    return None if tensor is None else torch.where(keep[:, None, None, None], tensor, 0)
