"""Samplers on denoisers whose solution is known; schedules; EMA; quantisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sida.numerics.ema import ema_beta, update_ema
from sida.numerics.quantize import from_uint8, to_preview_uint8, to_uint8, unit_to_uint8
from sida.numerics.samplers import each_step, heun, last_step, own_step
from sida.numerics.schedules import fake_score_sigma, generator_sigma, karras_sigmas, step_sigmas
from tests.golden.samplers import Counted

Z = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def gaussian(x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
    """The exact denoiser of N(0, 1) data."""
    return x / (1 + torch.as_tensor(sigma) ** 2).to(x.dtype)


def test_heun_follows_the_exact_solution_of_gaussian_data_with_second_order() -> None:
    # The probability flow of N(0, 1) data: x(0) = x(sigma_max) / sqrt(1 + sigma_max^2).
    exact = Z.double() * 80 / (1 + 80**2) ** 0.5
    errors = [
        float((heun(gaussian, Z, steps=steps, network_dtype=torch.float64) - exact).abs().max()) for steps in (32, 64)
    ]
    assert errors[0] < 0.05
    assert errors[0] / errors[1] > 3.5  # four, at second order


def test_a_sampler_of_n_steps_evaluates_the_network_2n_minus_1_times() -> None:
    for steps in (2, 9):
        network = Counted(gaussian)
        heun(network, Z, steps=steps)
        assert network.evaluations == 2 * steps - 1


def test_the_state_has_the_samplers_dtype() -> None:
    for dtype in (torch.float64, torch.float32):
        assert heun(gaussian, Z, steps=2, dtype=dtype).dtype == dtype


def test_guidance_of_a_network_by_itself_changes_nothing() -> None:
    plain = heun(gaussian, Z, steps=5)
    torch.testing.assert_close(heun(gaussian, Z, guide=gaussian, guidance=1.7, steps=5), plain)


def test_noise_is_asked_only_where_churn_acts() -> None:
    asked: list[int] = []

    def noise(step: int) -> Tensor:
        asked.append(step)
        return torch.zeros_like(Z)

    heun(gaussian, Z, steps=6, S_churn=3.0, S_min=0.05, S_max=10.0, noise=noise)
    levels = karras_sigmas(6)[:-1]
    assert asked == [step for step, sigma in enumerate(levels.tolist()) if 0.05 <= sigma <= 10.0]


def test_churn_without_noise_and_guidance_without_a_guide_are_refused() -> None:
    with pytest.raises(ValueError, match="source of noise"):
        heun(gaussian, Z, steps=2, S_churn=1.0)
    with pytest.raises(ValueError, match="second network"):
        heun(gaussian, Z, steps=2, guidance=1.4)
    with pytest.raises(ValueError, match="at least 2 steps"):
        heun(gaussian, Z, steps=1)


def test_one_step_is_the_denoiser_at_sigma_init() -> None:
    torch.testing.assert_close(last_step(gaussian, lambda step: Z, None, [2.5]), 2.5 * Z / (1 + 2.5**2))


def test_steps_go_down_evenly_in_the_t_that_training_noise_has() -> None:
    # sigma 2.5 lies at t_1 of generator_sigma: the steps at t_1, 3/4, 1/2 and 1/4 of it, and a fifth would be at 0.
    low, high, first = (sigma ** (1 / 7) for sigma in (0.002, 80.0, 2.5))
    t = 1000 * (first - low) / (high - low)
    expected = generator_sigma(torch.tensor([1, 3 / 4, 1 / 2, 1 / 4], dtype=torch.float64) * t / 1000, 1000)
    assert step_sigmas(2.5, 4) == pytest.approx(expected.tolist(), rel=1e-12)
    assert step_sigmas(2.5, 2) == pytest.approx([2.5, step_sigmas(2.5, 4)[2]])
    assert step_sigmas(2.5, 1) == [2.5]


def noises(step: int, places: Tensor | slice = slice(None)) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(6, 1, 2, 2, generator=generator, dtype=torch.float64)[places]


def test_each_step_denoises_the_image_before_with_fresh_noise_on_it() -> None:
    first = 2.5 * noises(1) / (1 + 2.5**2)
    second = (first + 0.7 * noises(2)) / (1 + 0.7**2)
    third = (second + 0.1 * noises(3)) / (1 + 0.1**2)
    made = list(each_step(gaussian, noises, None, [2.5, 0.7, 0.1]))
    for found, expected in zip(made, (first, second, third), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(last_step(gaussian, noises, None, [2.5, 0.7, 0.1]), made[-1])


class Scaling(nn.Module):
    """D(x; sigma) = w x / (1 + sigma^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        return self.w * x / (1 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1) ** 2)


def test_images_of_mixed_steps_are_those_of_their_step_and_the_gradient_that_of_the_last_evaluation() -> None:
    network, sigmas, steps = Scaling(), [2.5, 0.7, 0.1], [1, 2, 3, 3, 1, 2]
    made = own_step(network, noises, torch.zeros(6, 0), sigmas, steps)  # type: ignore[arg-type]
    with torch.no_grad():
        each = list(each_step(network, noises, None, sigmas))
    for image, step in enumerate(steps):
        torch.testing.assert_close(made[image], each[step - 1][image])
    # D is linear in w: what goes in is a constant, so that w times the gradient of the images' sum is that sum.
    made.sum().backward()
    assert network.w.grad is not None and network.training
    torch.testing.assert_close(network.w.grad * network.w.detach(), made.detach().sum())


def test_the_generators_noise_levels_start_at_the_smallest_and_stop_at_tmax() -> None:
    u = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert generator_sigma(u, 1000).tolist() == pytest.approx([0.002, 80.0])
    assert generator_sigma(u, 800)[1].item() == pytest.approx(24.41, abs=0.005)
    assert generator_sigma(u[:1], 400).item() == pytest.approx(0.002)


def test_the_samplers_noise_levels_fall_from_80_to_zero() -> None:
    sigmas = karras_sigmas(18)
    assert sigmas[0].item() == pytest.approx(80.0)
    assert sigmas[-2].item() == pytest.approx(0.002)
    assert sigmas[-1].item() == 0.0
    assert (sigmas.diff() < 0).all()


def test_the_fake_scores_noise_is_lognormal() -> None:
    assert fake_score_sigma(torch.zeros(1), -1.2, 1.2).item() == pytest.approx(0.30119, abs=1e-5)


def test_the_average_equals_the_network_after_the_first_iteration_and_never_moves_buffers() -> None:
    torch.manual_seed(0)
    network, average = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.normal_(network.weight)
    network.running_mean.fill_(5.0)
    assert ema_beta(0, 256, 500_000, 0.05) == 0.0
    update_ema([*average.parameters()], [*network.parameters()], ema_beta(0, 256, 500_000, 0.05))
    assert torch.equal(average.weight, network.weight)
    assert not average.running_mean.any()


def test_half_of_the_average_is_replaced_in_a_half_life() -> None:
    network, average = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.ones_(network.weight)
    nn.init.zeros_(average.weight)
    for _ in range(10):  # ten batches of 50 images: the half-life
        update_ema([*average.parameters()], [*network.parameters()], ema_beta(10**9, 50, 500, 0.05))
    torch.testing.assert_close(average.weight, torch.full((1, 2), 0.5))
    with pytest.raises(ValueError, match="1 parameters, the network 2"):
        update_ema([*average.parameters()], [*nn.Linear(2, 1).parameters()], 0.5)


def test_scores_truncate_where_previews_round() -> None:
    images = torch.tensor([-1.5, -1.0, 0.0, 0.0039, 1.0, 1.5])
    assert to_uint8(images).tolist() == [0, 0, 128, 128, 255, 255]
    assert to_preview_uint8(images).tolist() == [0, 0, 128, 128, 255, 255]
    assert to_uint8(torch.tensor([0.9960])).item() == 254
    assert to_preview_uint8(torch.tensor([0.9965])).item() == 255
    assert unit_to_uint8(torch.tensor([-0.1, 0.5, 0.9999, 1.2])).tolist() == [0, 127, 254, 255]
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)
