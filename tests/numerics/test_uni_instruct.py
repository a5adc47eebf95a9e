"""Uni-Instruct on Gaussians: where all densities are known, the loss has the gradient of the divergence itself.

Data N(0, 1) and a generator y = mu + s z in one dimension, float64. Teacher, fake score and logit are exact, and frozen at the
generator's parameters as networks are. Means over z and eps are Gauss-Hermite sums, so no test depends on draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from sida.numerics import losses as module
from sida.numerics.losses import DIVERGENCES, LOG_RATIO_BOUND, GeneratorLosses, divergence_weight, generator_losses
from sida.recipe import Method

WEIGHTED = [name for name, weight in DIVERGENCES.items() if weight is not None]
SIGMAS = (0.3, 1.0, 3.0)


def hermite(order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a mean over a unit normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """Log density."""
    return -((x - mean) ** 2) / (2 * variance) - torch.log(2 * math.pi * torch.as_tensor(variance, dtype=x.dtype)) / 2


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios as they are: b tanh(l / b) is l to 12 digits for all that occur."""
    monkeypatch.setattr(module, "LOG_RATIO_BOUND", 1e8)


def parameters(mu: float = 0.5, s: float = 0.8) -> tuple[Tensor, Tensor]:
    """mu and s of a generator."""
    mean, spread = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (mu, s))
    return mean, spread


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def losses(
    mu: Tensor, s: Tensor, sigma: float, divergence: str, rule: tuple[Tensor, Tensor], alpha: float = 0.5
) -> tuple[GeneratorLosses, Tensor]:
    """The loss at each pair of nodes without k, which is a sample's own factor and not the divergence's, and their weights."""
    nodes, weights = rule
    z, eps = (column(grid) for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    y = mu + s * z
    noisy = y + sigma * eps
    mean, spread = mu.detach(), s.detach()
    y_phi = noisy - sigma**2 * noisy / (1 + sigma**2)
    y_psi = noisy - sigma**2 * (noisy - mean) / (spread**2 + sigma**2)
    logits = normal(noisy, 0.0, 1 + sigma**2) - normal(noisy, mean, spread**2 + sigma**2)
    made = generator_losses(y, y_phi, y_psi, alpha, logits if divergence in WEIGHTED else None, divergence=divergence)
    k = 1 / (y - y_phi).detach().abs().clamp_min(1e-5)
    return GeneratorLosses(made.loss_sid / k, made.loss_adv, made.keep), column(torch.outer(weights, weights))


def gradient(total: Tensor, *of: Tensor) -> list[float]:
    return [float(part) for part in torch.autograd.grad(total, of)]


def by_loss(
    divergence: str, mu: Tensor, s: Tensor, sigma: float, rule: tuple[Tensor, Tensor], alpha: float = 0.5
) -> list[float]:
    """d/d(mu, s) of the mean loss in units of scores: denoised images differ by sigma^2 times scores."""
    made, weights = losses(mu, s, sigma, divergence, rule, alpha)
    return gradient((made.loss_sid * weights).sum() / sigma**4, mu, s)


def half_weighted_fisher(divergence: str, mu: Tensor, s: Tensor, sigma: float, rule: tuple[Tensor, Tensor]) -> Tensor:
    """E_q W |grad log p - grad log q|^2 / 2 at one noise level, nothing frozen: -d/d(sigma^2) of the divergence."""
    nodes, weights = rule
    variance = s**2 + sigma**2
    x = mu + variance.sqrt() * nodes
    log_r = normal(x, 0.0, 1 + sigma**2) - normal(x, mu, variance)
    difference = -x / (1 + sigma**2) + (x - mu) / variance
    W = divergence_weight(column(log_r), divergence)[0].flatten() if divergence in WEIGHTED else torch.ones_like(x)
    return (weights * W * difference**2).sum() / 2


def divergence_itself(divergence: str, mu: Tensor, variance: Tensor, data: Tensor) -> Tensor:
    """Between N(mu, variance), the generator's, and N(0, data); scaled as in DIVERGENCES. JS by a fine sum."""
    if divergence == "fkl":
        return ((data + mu**2) / variance - 1 + torch.log(variance / data)) / 2
    if divergence in ("rkl", "fisher"):  # the Fisher divergence is what KL(q || p) falls by
        return ((variance + mu**2) / data - 1 + torch.log(data / variance)) / 2
    if divergence == "chi2":  # finite for variance < 2 data
        spread = 2 * data - variance
        return (data / (variance * spread).sqrt() * torch.exp(mu**2 / spread) - 1) / 2
    x = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    log_p, log_q = normal(x, 0.0, data), normal(x, mu, variance)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 2 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() * 120 / 60_000


def test_the_names_are_those_of_recipes() -> None:
    (names, _) = get_args(Method.model_fields["divergence"].annotation)
    assert set(get_args(names)) == set(DIVERGENCES)


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_slope_is_the_weight_s_derivative_and_equal_densities_weigh_one(name: str) -> None:
    logits = torch.linspace(-5, 5, 41, dtype=torch.float64).reshape(-1, 1, 1, 1).requires_grad_(True)
    W, slope = divergence_weight(logits, name)
    (derivative,) = torch.autograd.grad(W.sum(), logits)
    assert torch.allclose(derivative, slope.detach(), rtol=1e-13)
    assert divergence_weight(torch.zeros(1, 1, 2, 2), name)[0].item() == 1
    assert W.detach().log().abs().max() < LOG_RATIO_BOUND


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_at_alpha_one_half_the_gradient_is_that_of_the_weighted_fisher_divergence(name: str, sigma: float) -> None:
    mu, s = parameters()
    rule = hermite(80)  # exact to rounding for functions as smooth as these
    wanted = gradient(half_weighted_fisher(name, mu, s, sigma, rule), mu, s)
    assert by_loss(name, mu, s, sigma, rule) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_over_noise_levels_the_gradients_add_up_to_that_of_the_divergence_itself(name: str) -> None:
    """Of D at a low noise level less D at a high one: both ends in closed form, JS by a sum."""
    mu, s = parameters()
    low, high = 0.2, 4.0  # variances of the noise
    nodes, weights = np.polynomial.legendre.leggauss(40)
    levels, weights = (high - low) / 2 * nodes + (high + low) / 2, weights * (high - low) / 2
    found = [by_loss(name, mu, s, math.sqrt(level), hermite(60)) for level in levels]
    ends = [divergence_itself(name, mu, s**2 + level, torch.tensor(1 + level, dtype=s.dtype)) for level in (low, high)]
    wanted = gradient(ends[0] - ends[1], mu, s)
    assert [float(weights @ np.array(part)) for part in zip(*found, strict=True)] == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("name", WEIGHTED)
def test_bounded_ratios_give_the_gradient_of_the_divergence_that_they_are_of(name: str) -> None:
    mu, s = parameters(mu=2.0, s=0.7)
    sigma, rule = 0.5, hermite(160)  # more nodes: the bound's bends are sharper
    middle = torch.tensor(2.0, dtype=torch.float64)
    log_r = normal(middle, 0.0, 1 + sigma**2) - normal(middle, middle, s.detach() ** 2 + sigma**2)
    assert abs(float(log_r)) > LOG_RATIO_BOUND / 2  # in the middle of what is generated
    wanted = gradient(half_weighted_fisher(name, mu, s, sigma, rule), mu, s)
    assert by_loss(name, mu, s, sigma, rule) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["rkl", "fisher"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_reverse_kl_and_fisher_are_sid_bit_for_bit(name: str, alpha: float) -> None:
    y, y_phi, y_psi = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    sid = generator_losses(y, y_phi, y_psi, alpha)
    assert torch.equal(generator_losses(y, y_phi, y_psi, alpha, divergence=name).loss_sid, sid.loss_sid)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_discriminator_that_cannot_tell_gives_sid_with_another_alpha(name: str) -> None:
    """Where r is 1 everywhere, W is 1, and its slope c counts as alpha + c/2."""
    y, y_phi, y_psi = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    slope = {"fkl": 1.0, "js": 0.5, "chi2": -1.0}[name]
    found = generator_losses(y, y_phi, y_psi, 1.0, torch.zeros(4, 1, 2, 2), divergence=name)
    wanted = generator_losses(y, y_phi, y_psi, 1.0 + slope / 2)
    assert torch.allclose(found.loss_sid, wanted.loss_sid, rtol=1e-5, atol=1e-5)
    assert found.loss_adv is None


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_without_gradients_would_give_another_gradient(name: str) -> None:
    """Why the logits are not detached: W depends on the noised image as the scores do."""
    mu, s = parameters()
    wanted = gradient(half_weighted_fisher(name, mu, s, 0.3, hermite(80)), mu, s)
    detached = by_loss_with(name, mu, s, 0.3, lambda logits: logits.detach())
    assert detached != pytest.approx(wanted, rel=0.05)
    assert by_loss_with(name, mu, s, 0.3, lambda logits: logits) == pytest.approx(wanted, rel=1e-9)


def by_loss_with(divergence: str, mu: Tensor, s: Tensor, sigma: float, seen: Callable[[Tensor], Tensor]) -> list[float]:
    """As ``by_loss`` at alpha 1/2, written out: L = W d . (y_phi - y - d/2) - W'/2 d^2, with d = y_phi - y_psi."""
    nodes, weights = hermite(80)
    z, eps = torch.meshgrid(nodes, nodes, indexing="ij")
    y = mu + s * z
    noisy, variance = y + sigma * eps, s.detach() ** 2 + sigma**2
    y_phi = noisy / (1 + sigma**2)
    d = y_phi - noisy + sigma**2 * (noisy - mu.detach()) / variance
    log_r = normal(noisy, 0.0, 1 + sigma**2) - normal(noisy, mu.detach(), variance)
    W, slope = (part.reshape(y.shape) for part in divergence_weight(seen(column(log_r)), divergence))
    loss = W * d * (y_phi - y - d / 2) - slope / 2 * d**2
    return gradient((loss * torch.outer(weights, weights)).sum() / sigma**4, mu, s)


def test_a_nan_among_the_logits_drops_its_sample() -> None:
    y, y_phi, y_psi = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    logits = torch.zeros(4, 1, 2, 2)
    logits[2, 0, 0, 0] = float("nan")
    made = generator_losses(y, y_phi, y_psi, 1.0, logits, divergence="js")
    assert made.keep.tolist() == [True, True, False, True]
    assert torch.isfinite(made.loss_sid).all() and not made.loss_sid[2].any()


def test_a_constant_weight_takes_no_logits() -> None:
    with pytest.raises(ValueError, match="divergence fisher has no weight"):
        divergence_weight(torch.zeros(1, 1, 1, 1), "fisher")
