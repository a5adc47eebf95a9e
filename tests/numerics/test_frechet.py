"""The Frechet distance and its moments: closed form, trusted implementation, properties, independence of batching."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sida.numerics.frechet import Moments, check_covariance, frechet_distance, sampling_bias


def covariance(seed: int, size: int, samples: int) -> Tensor:
    x = torch.randn(samples, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.T @ x / samples


def moments(features: Tensor, batch: int) -> Moments:
    result = Moments(features.shape[1])
    for part in features.split(batch):
        result.add(part)
    return result


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 30))
def test_a_distribution_is_at_distance_zero_from_itself(seed: int, size: int, samples: int) -> None:
    mu, sigma = torch.arange(size, dtype=torch.float64), covariance(seed, size, samples)
    # Clipped eigenvalues of size eps each contribute up to sqrt(eps) where the covariance is singular.
    assert abs(frechet_distance(mu, sigma, mu, sigma)) < 1e-6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 30))
def test_the_distance_is_symmetric_and_not_negative(seed: int, size: int, samples: int) -> None:
    one = torch.zeros(size, dtype=torch.float64), covariance(seed, size, samples)
    other = torch.ones(size, dtype=torch.float64), covariance(seed + 1, size, 2 * size)
    forward, backward = frechet_distance(*one, *other), frechet_distance(*other, *one)
    assert forward == pytest.approx(backward, abs=1e-6)
    assert forward >= size - 1e-6  # the means alone


def test_gaussians_with_commuting_covariances_have_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.0]).double()
    rotation, _ = torch.linalg.qr(covariance(3, 3, 5))
    mu1, mu2 = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    ours = frechet_distance(mu1, rotation @ a.diag() @ rotation.T, mu2, rotation @ b.diag() @ rotation.T)
    assert ours == pytest.approx(5 + float(((a.sqrt() - b.sqrt()) ** 2).sum()), abs=1e-6)


@pytest.mark.parametrize(("samples", "tolerance"), [(100, 1e-9), (10, 1e-4)])
def test_scipys_matrix_root_gives_the_same_also_for_deficient_ranks(samples: int, tolerance: float) -> None:
    s1, s2 = covariance(1, 24, samples), covariance(2, 24, samples)
    mu = torch.zeros(24, dtype=torch.float64)
    # scipy's own root of a singular product is good to about 1e-6 per vanishing eigenvalue.
    root = scipy.linalg.sqrtm((s1 @ s2).numpy())
    oracle = float(s1.trace() + s2.trace() - 2 * np.trace(root).real)
    assert frechet_distance(mu, s1, mu, s2) == pytest.approx(oracle, abs=tolerance)


@pytest.mark.parametrize(
    ("one", "two"), [(30, 400), (400, 30), (30, 50), (199, 150), (1, 400), (195, 400), (400, 199), (199, 198)]
)
def test_covariances_of_few_samples_give_the_sum_of_singular_values_of_the_samples_themselves(
    one: int, two: int
) -> None:
    size = 200
    x1 = torch.randn(one, size, dtype=torch.float64, generator=torch.Generator().manual_seed(one)) / one**0.5
    x2 = torch.randn(two, size, dtype=torch.float64, generator=torch.Generator().manual_seed(two + 1)) / two**0.5
    x1, x2 = (x * torch.linspace(1, 0.001, size, dtype=torch.float64) for x in (x1, x2))
    # tr sqrt(X1' X1 X2' X2) = |X1 X2'| in the nuclear norm, without ever squaring: exact where roots of products are not.
    exact = float(x1.square().sum() + x2.square().sum() - 2 * torch.linalg.svdvals(x1 @ x2.T).sum())
    mu = torch.zeros(size, dtype=torch.float64)
    assert frechet_distance(mu, x1.T @ x1, mu, x2.T @ x2) == pytest.approx(exact, abs=2e-7)


@pytest.mark.parametrize("sigma", [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, -0.5]]])
def test_an_indefinite_matrix_is_refused_whichever_way_it_is_factored(sigma: list[list[float]]) -> None:
    mu = torch.zeros(2)
    with pytest.raises(ValueError, match="not positive semi-definite"):
        frechet_distance(mu, torch.tensor(sigma), mu, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_infinite_statistics_are_refused() -> None:
    mu, sigma = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(mu, sigma, mu, sigma * float("nan"))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 50), st.integers(0, 40))
def test_moments_do_not_depend_on_batches_nor_on_who_saw_which_sample(batch: int, split: int) -> None:
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    whole, parts = moments(features, 40), moments(features[:split], batch)
    parts.merge(moments(features[split:], batch))
    for ours, theirs in zip(parts.mean_cov(), whole.mean_cov(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_are_numpys(ddof: int) -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    mean, cov = moments(features, 7).mean_cov(ddof)
    np.testing.assert_allclose(mean, features.double().mean(0), atol=1e-12)
    np.testing.assert_allclose(cov, np.cov(features.double().numpy(), rowvar=False, ddof=ddof), atol=1e-12)


def test_moments_survive_their_state() -> None:
    one = moments(torch.randn(9, 3, generator=torch.Generator().manual_seed(2)), 4)
    other = Moments.from_state(one.state())
    other.add(torch.zeros(1, 3))
    assert int(one.count) == 9
    assert int(other.count) == 10
    with pytest.raises(ValueError, match="do not fit"):
        Moments.from_state([one.count, one.sum, torch.zeros(2, 2)])


def test_features_of_another_width_and_too_few_samples_are_refused() -> None:
    one = Moments(3)
    with pytest.raises(ValueError, match="expected features"):
        one.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="more than 0 samples"):
        one.mean_cov()


def test_what_is_no_covariance_is_refused() -> None:
    mu, sigma = torch.zeros(3), torch.eye(3)
    negative = torch.diag(torch.tensor([1.0, 1.0, -0.5]))
    for one, other in ((negative, sigma), (sigma, negative), (negative, negative)):
        with pytest.raises(ValueError, match="not positive semi-definite"):
            frechet_distance(mu, one, mu, other)
    few = torch.diag(torch.tensor([1.0, 0.0, 0.0]))  # whose factor does not see where the other is negative
    for one, other in ((few, negative), (negative, few)):
        with pytest.raises(ValueError, match="not positive semi-definite"):
            frechet_distance(mu, one, mu, other)
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_distance(mu, sigma + torch.triu(torch.ones(3, 3), 1), mu, sigma)
    with pytest.raises(ValueError, match="do not fit together"):
        frechet_distance(mu, sigma, torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize("size", [2, 64, 300])
@pytest.mark.parametrize("least", [-5000.0, -1.0])
def test_a_variance_below_zero_that_rounding_does_not_make_is_refused(size: int, least: float) -> None:
    variances = torch.linspace(1, 1e9, size, dtype=torch.float64)
    variances[0] = least
    basis, _ = torch.linalg.qr(covariance(size, size, 2 * size))
    rotated = basis @ variances.diag() @ basis.T
    good = torch.eye(size, dtype=torch.float64) * 1e9
    for sigma in (variances.diag(), (rotated + rotated.T) / 2):
        with pytest.raises(ValueError, match="not positive semi-definite"):
            check_covariance(sigma)
        for one, other in ((sigma, good), (good, sigma)):
            with pytest.raises(ValueError, match="not positive semi-definite"):
                frechet_distance(torch.zeros(size), one, torch.zeros(size), other)


@pytest.mark.parametrize(("size", "samples", "shift"), [(8, 5, 0.0), (64, 40, 3.0), (256, 200, 1.0), (8, 5000, 30.0)])
def test_covariances_that_are_singular_but_for_rounding_are_taken(size: int, samples: int, shift: float) -> None:
    features = torch.randn(samples, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)) + shift
    features[:, 0] = shift  # a feature that is always the same
    moments = Moments(size)
    moments.add(features)
    mean, sigma = moments.mean_cov()
    check_covariance(torch.cov(features.T))
    check_covariance(torch.cov(features.T).float())  # kept in float32
    check_covariance(torch.cov(features.float().T))  # computed in it
    assert frechet_distance(mean, sigma, mean, sigma) == pytest.approx(0, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 23))
def test_low_ranks_on_both_sides_have_the_distance_of_their_common_space(seed: int, rank: int) -> None:
    # Both live in the same `rank` dimensions of 24: there the covariances are regular.
    basis, _ = torch.linalg.qr(covariance(seed, 24, 48))
    basis = basis[:, :rank]
    one, other = covariance(seed + 1, rank, 3 * rank), covariance(seed + 2, rank, 3 * rank)
    small, large = torch.zeros(rank), torch.zeros(24)
    inside = frechet_distance(small, one, small, other)
    embedded = frechet_distance(large, basis @ one @ basis.T, large, basis @ other @ basis.T)
    assert embedded == pytest.approx(inside, abs=1e-6)


def test_the_sampling_bias_is_what_small_samples_of_a_gaussian_score() -> None:
    # First order in 1/n: at n = 30 d the next order is some percent.
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([2.0, 1.0, 0.5, 0.1]).double()
    sigma, count = torch.diag(scales**2), 120
    scores = []
    for _ in range(400):
        x = torch.randn(count, 4, dtype=torch.float64, generator=generator) * scales
        scores.append(frechet_distance(x.mean(0), torch.cov(x.T, correction=0), torch.zeros(4), sigma))
    assert sum(scores) / len(scores) == pytest.approx(sampling_bias(sigma, count), rel=0.1)
    assert sampling_bias(sigma, 2 * count) == pytest.approx(sampling_bias(sigma, count) / 2)
    with pytest.raises(ValueError, match="at least one"):
        sampling_bias(sigma, 0)


@pytest.mark.parametrize(("one", "two"), [(250, 600), (290, 600), (299, 250), (600, 700)])
def test_statistics_kept_in_float32_are_no_worse_than_their_rounding(one: int, two: int) -> None:
    size, mu = 300, torch.zeros(300, dtype=torch.float64)  # more than one block
    s1, s2 = covariance(one, size, one), covariance(two, size, two)
    exact = frechet_distance(mu, s1, mu, s2)
    # An eigenvalue of 0 becomes one of 1e-7, of either sign, whose root is 3e-4: of each of at most 50.
    assert frechet_distance(mu.float(), s1.float(), mu.float(), s2.float()) == pytest.approx(exact, abs=2e-2)
    assert frechet_distance(mu, s2, mu, s1) == pytest.approx(exact, abs=1e-6)
    root = scipy.linalg.sqrtm((s1 @ s2).numpy())
    assert exact == pytest.approx(float(s1.trace() + s2.trace() - 2 * np.trace(root).real), abs=1e-4)


@pytest.mark.parametrize(("mean", "factor"), [(0.0, 1e154), (0.0, 1e300), (1e200, 1.0)])
def test_a_distance_that_float64_cannot_hold_is_refused(mean: float, factor: float) -> None:
    root = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma, zero = root @ root.T, torch.zeros(8, dtype=torch.float64)
    with pytest.raises(ValueError, match="too large"):
        frechet_distance(zero + mean, sigma * factor, zero, sigma * factor)
