"""Losses: gradients against finite differences, loss groups, dropped samples, gradients' sanitising."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sida.numerics.losses import (
    denoising_loss,
    fake_score_losses,
    generator_losses,
    group_bce,
    sanitize_gradients,
)
from sida.numerics.networks.build import build_network
from sida.numerics.networks.precondition import Denoiser

BATCH, SHAPE = 4, (1, 4, 4)
SIGMA = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)


def tiny(architecture: str = "ddpmpp", seed: int = 0) -> Denoiser:
    """A network in float64 with all weights away from zero."""
    torch.manual_seed(seed)
    fields = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": (), "label_dim": 0}
    fields |= {"logvar_channels": 4} if architecture == "edm2" else {}
    network = build_network({"architecture": architecture, "resolution": 4, "channels": 1, **fields}).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (BATCH, *SHAPE)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fake_score_total(psi: Denoiser, y: Tensor) -> Tensor:
    y_psi, l_fake = psi(y + normal(1) * SIGMA[:, None, None, None], SIGMA, want="both")
    l_real = psi(normal(2), SIGMA, want="logits")
    losses = fake_score_losses(y, y_psi, SIGMA, l_fake, l_real, psi.logvar(SIGMA), group=2)
    assert losses.loss_D is not None
    return losses.loss_psi.sum() + 3 * losses.loss_D.sum()


def compare_with_finite_differences(total, parameter: Tensor, step: float = 1e-6) -> None:  # type: ignore[no-untyped-def]
    """The derivative along one random direction, central differences in float64."""
    direction = normal(9, *parameter.shape)
    (gradient,) = torch.autograd.grad(total(), parameter)
    with torch.no_grad():
        parameter += step * direction
        above = total()
        parameter -= 2 * step * direction
        below = total()
        parameter += step * direction
    assert float((gradient * direction).sum()) == pytest.approx(float(above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("architecture", ["ddpmpp", "edm2"])
def test_the_fake_scores_gradient_is_that_of_finite_differences(architecture: str) -> None:
    psi = tiny(architecture)
    y = normal(0)
    parameters = dict(psi.named_parameters())
    for name in [n for n in parameters if n.endswith(("4x4_conv.weight", "logvar_linear.weight"))]:
        compare_with_finite_differences(lambda: fake_score_total(psi, y), parameters[name])


@pytest.mark.parametrize("architecture", ["ddpmpp", "edm2"])
def test_the_generators_gradient_is_that_of_finite_differences_with_k_held_fixed(architecture: str) -> None:
    phi, psi, y = tiny(architecture), tiny(architecture, seed=1), normal(0).requires_grad_(True)
    sigma, noise = SIGMA[:, None, None, None], normal(1)

    def losses_at(image: Tensor):  # type: ignore[no-untyped-def]
        noisy = image + noise * sigma
        y_psi, logits = psi(noisy, SIGMA, want="both")
        return generator_losses(image, phi(noisy, SIGMA), y_psi, 1.2, logits, psi.logvar(SIGMA), group=2)

    def k_at(image: Tensor) -> Tensor:
        error = (image - phi(image + noise * sigma, SIGMA)).abs().mean(dim=(1, 2, 3), keepdim=True)
        return 1 / error.clamp_min(1e-5)

    held = k_at(y.detach()).detach()

    def total() -> Tensor:
        losses = losses_at(y)
        assert losses.loss_adv is not None
        ratio = (held / k_at(y)).detach()  # undoes k's change between the two sides of a difference
        return (losses.loss_sid * ratio).sum() + 0.1 * (losses.loss_adv * ratio).sum()

    compare_with_finite_differences(total, y)


def test_sid_and_sida_share_the_score_part() -> None:
    y, y_phi, y_psi, logits = normal(0), normal(1), normal(2), normal(3, BATCH, 1, 2, 2)
    with_logits = generator_losses(y, y_phi, y_psi, 1.0, logits)
    without = generator_losses(y, y_phi, y_psi, 1.0)
    assert torch.equal(with_logits.loss_sid, without.loss_sid)
    assert without.loss_adv is None


def test_a_loss_group_does_not_see_the_other_groups_of_its_micro_batch() -> None:
    y, y_psi, l_fake, l_real = normal(0), normal(1), normal(2, BATCH, 1, 2, 2), normal(3, BATCH, 1, 2, 2)
    together = fake_score_losses(y, y_psi, SIGMA, l_fake, l_real, group=2)
    apart = [
        fake_score_losses(y[part], y_psi[part], SIGMA[part], l_fake[part], l_real[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert together.loss_D is not None
    torch.testing.assert_close(together.loss_D, torch.cat([losses.loss_D for losses in apart]))  # type: ignore[misc]
    torch.testing.assert_close(together.loss_psi, torch.cat([losses.loss_psi for losses in apart]))


def test_a_group_that_does_not_divide_the_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="whole loss groups of 3"):
        group_bce(torch.zeros(4, 1, 2, 2), True, torch.ones(4, dtype=torch.bool), 3)


def test_one_logit_map_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="generated and of real"):
        fake_score_losses(normal(0), normal(1), SIGMA, l_fake=normal(2, BATCH, 1, 2, 2))


@pytest.mark.parametrize("what", ["y", "y_psi", "l_fake", "l_real", "logvar"])
def test_a_sample_with_a_nan_leaves_no_trace_in_the_others(what: str) -> None:
    tensors = {
        "y": normal(0),
        "y_psi": normal(1).requires_grad_(True),
        "l_fake": normal(2, BATCH, 1, 2, 2).requires_grad_(True),
        "l_real": normal(3, BATCH, 1, 2, 2),
        "logvar": normal(4, BATCH, 1, 1, 1),
    }
    others = [0, 1, 3]
    expected = fake_score_losses(sigma=SIGMA[others], **{name: tensor[others] for name, tensor in tensors.items()})
    with torch.no_grad():
        tensors[what][2].view(-1)[0] = float("nan")
    losses = fake_score_losses(sigma=SIGMA, **tensors)
    assert losses.keep.tolist() == [True, True, False, True]
    assert losses.loss_D is not None and expected.loss_D is not None
    torch.testing.assert_close(losses.loss_psi[others], expected.loss_psi)
    torch.testing.assert_close(losses.loss_D[others], expected.loss_D)
    assert not losses.loss_psi[2].any() and not losses.loss_D[2].any()
    (losses.loss_psi.sum() + losses.loss_D.sum()).backward()
    for name in ("y_psi", "l_fake"):
        gradient = tensors[name].grad
        assert gradient is not None and gradient.isfinite().all() and not gradient[2].any()


def test_a_micro_batch_of_nans_has_losses_of_zero() -> None:
    nans = torch.full((BATCH, *SHAPE), float("nan"))
    logits = torch.zeros(BATCH, 1, 2, 2)
    losses = generator_losses(nans, nans, nans, 1.0, logits)
    assert losses.loss_adv is not None
    assert not losses.keep.any()
    assert not losses.loss_sid.any() and not losses.loss_adv.any()


def test_the_denoising_loss_is_smallest_for_the_clean_image() -> None:
    clean = normal(0)
    assert not denoising_loss(clean, clean, SIGMA).any()
    loss = denoising_loss(clean + 1, clean, SIGMA)
    torch.testing.assert_close(loss[:, 0, 0, 0], (SIGMA**2 + 0.25) / (SIGMA * 0.5) ** 2)


def test_gradients_are_made_finite_before_they_are_clipped() -> None:
    nan, inf = float("nan"), float("inf")
    first = [torch.tensor([nan, inf, -inf, 3.0, -0.5])]
    sanitize_gradients(first)
    assert first[0].tolist() == [0.0, 1e5, -1e5, 3.0, -0.5]
    sanitize_gradients(first, 1.0)
    assert first[0].tolist() == [0.0, 1.0, -1.0, 1.0, -0.5]
