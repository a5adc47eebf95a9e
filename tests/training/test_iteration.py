"""One iteration: the order of things, the warm-ups, and numbers that do not depend on how the work is cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sida import recipe
from sida.numerics.losses import FakeScoreLosses, fake_score_losses
from sida.training import iteration
from sida.training.execution import apply_execution, convolve_channels_last, recompute_activations
from sida.training.iteration import Distillation
from tests.training.tiny import distillation, edm2, largest_difference, run


def test_augmentation_acts() -> None:
    assert largest_difference(run(distillation(augment=0.5), 3), run(distillation(), 3)) > 1e-3


def test_the_same_run_twice_is_the_same_bit_for_bit() -> None:
    first, second = (run(distillation(dtype=torch.float32), 5) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recomputed_activations_change_no_bit_dropout_included() -> None:
    plain, saving = distillation(dtype=torch.float32), distillation(dtype=torch.float32)
    for network in (saving.networks.phi, saving.networks.psi, saving.networks.theta):
        recompute_activations(network)
    first, second = run(plain, 5), run(saving, 5)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recomputed_activations_change_no_bit_under_forced_normalisation() -> None:
    plain, saving = (edm2(forced_normalization=True) for _ in range(2))
    for network in (saving.networks.phi, saving.networks.psi, saving.networks.theta):
        recompute_activations(network)
    first, second = run(plain, 5), run(saving, 5)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("make", "rounding"), [(distillation, 1e-9), (edm2, 1e-5)])  # float64, float32
def test_channels_last_changes_layouts_of_convolutions_alone(make: Callable[[], Distillation], rounding: float) -> None:
    plain, turned = make(), make()
    for network in (turned.networks.phi, turned.networks.psi, turned.networks.theta):
        convolve_channels_last(network)
    with Layouts() as seen:
        found = run(turned, 2, seen=96)
    assert seen.count and seen.others == set()
    assert largest_difference(run(plain, 2, seen=96), found) < rounding
    states = [s["exp_avg"] for o in (turned.psi_updates.adam, turned.theta_updates.adam) for s in o.state.values()]
    assert states and all(tensor.is_contiguous() for tensor in [*states, *found.values()])


class Layouts(TorchDispatchMode):
    """Counts convolutions that mix channels; ``others``: shapes of weights and of what comes out with the channels not last."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.others = 0, set[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and args[1].ndim == 4 and args[8] == 1 and not args[6]:
            self.count += 1
            for tensor in (args[1], made):
                if not tensor.is_contiguous(memory_format=torch.channels_last):
                    self.others.add(tuple(tensor.shape))
        return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own insides
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("make", "rounding"), [(distillation, 1e-9), (edm2, 1e-5)])  # float64, float32
def test_compiled_blocks_give_the_same_numbers_but_for_rounding(
    make: Callable[[], Distillation], rounding: float, recompute: bool
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    plain, compiled = make(), make()
    changes = {"compile": True, "activation_checkpointing": recompute}
    apply_execution(compiled.networks, recipe.load("digits").execution.model_copy(update=changes))
    assert largest_difference(run(plain, 2, seen=96), run(compiled, 2, seen=96)) < rounding


def test_theta_waits_for_its_warm_up_and_the_ema_follows_all_the_same() -> None:
    job = distillation()
    before = {name: p.clone() for name, p in job.networks.theta.named_parameters()}
    assert set(job.run(0)) == {"loss_psi", "loss_D"}  # seen 0, not beyond generator_from 32: psi alone moves
    assert all(torch.equal(before[name], p) for name, p in job.networks.theta.named_parameters())
    job.run(32)  # the comparison is strict
    assert all(torch.equal(before[name], p) for name, p in job.networks.theta.named_parameters())
    job.run(64)
    assert not all(torch.equal(before[name], p) for name, p in job.networks.theta.named_parameters())


def test_the_adversarial_term_begins_beyond_its_warm_up() -> None:
    job = distillation()
    assert "loss_adv" not in job.run(64)
    assert "loss_adv" in job.run(96)


def test_sid_has_no_discriminator_and_no_warm_up() -> None:
    job = distillation(name="sid")
    before = {name: p.clone() for name, p in job.networks.theta.named_parameters()}
    losses = job.run(0)
    assert set(losses) == {"loss_psi", "loss_sid"}
    assert not all(torch.equal(before[name], p) for name, p in job.networks.theta.named_parameters())


@pytest.mark.parametrize("divergence", ["fkl", "js", "chi2"])
def test_uni_instruct_weighs_the_generator_s_loss_beyond_its_warm_up_without_an_adversarial_term(
    divergence: str,
) -> None:
    uni, sid = (distillation(name="uni", divergence=name) for name in (divergence, "fisher"))
    for seen in (0, 32, 64):
        losses = uni.run(seen)
        assert torch.equal(losses["loss_psi"], sid.run(seen)["loss_psi"])
    before = {name: p.clone() for name, p in sid.networks.theta.named_parameters()}
    assert all(torch.equal(before[name], p) for name, p in uni.networks.theta.named_parameters())  # seen 64: not yet
    losses, plain = uni.run(96), sid.run(96)
    assert set(losses) == set(plain) == {"loss_psi", "loss_D", "loss_sid"}
    assert not torch.equal(losses["loss_sid"], plain["loss_sid"])


def test_uni_instruct_with_fisher_steps_theta_as_sid_does_bit_for_bit() -> None:
    """From the same fake score; that of Uni-Instruct is trained as a discriminator too."""
    uni, sid = distillation(name="uni", divergence="fisher"), distillation(name="sid")
    uni.run(0)
    for own, other in zip(sid.networks.psi.parameters(), uni.networks.psi.parameters(), strict=True):
        own.data.copy_(other)
    uni.update_generator(96)
    sid.update_generator(96)
    theta = dict(sid.networks.theta.named_parameters())
    assert all(torch.equal(theta[name], p) for name, p in uni.networks.theta.named_parameters())


def test_learning_rates_fall_to_zero_at_the_end() -> None:
    job = distillation(decay_from=320)
    rates = []
    for seen in (0, 320, 480, 608):
        job.run(seen)
        rates.append(job.theta_updates.adam.param_groups[0]["lr"] / job.method.generator_rate)
    assert rates == pytest.approx([1, 1, 0.5, 0.1])


def test_the_fake_score_s_rate_falls_in_the_warm_up_too_and_starts_anew() -> None:
    job = distillation(generator_from=96, warm_up_decay_from=32, decay_from=320)
    rates = []
    for seen in (0, 32, 64, 96, 128, 480):
        job.run(seen)
        rates.append(job.psi_updates.adam.param_groups[0]["lr"] / job.method.fake_score_rate)
    assert rates == pytest.approx([1, 1, 0.5, 0, 1, 0.5])


def test_a_sample_with_a_nan_is_dropped_and_counted() -> None:
    job = distillation(dropout=0.0)
    images = job.data.images  # type: ignore[attr-defined]
    images[job.data.order(torch.arange(1))] = float("nan")  # type: ignore[attr-defined]
    losses = job.run(0)
    assert int(job.dropped) == 1
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p).all() for p in job.networks.psi.parameters())


@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_told_of_an_iteration_is_the_mean_over_its_rounds(steps: int) -> None:
    told = []
    for micro in (None, 1):  # of two steps the last image of each batch is always at the second
        job = distillation(micro_batch=micro, batch=8, loss_group=1, dropout=0.0, steps=steps)
        losses = job.run(96)  # all terms act
        told.append(losses | {name: value for name, value in job.health.items() if name.startswith("D_")})
    assert told[0].keys() == told[1].keys() == {"loss_psi", "loss_D", "loss_sid", "loss_adv", "D_real", "D_fake"}
    for name, value in told[0].items():
        assert float(told[1][name]) == pytest.approx(float(value), rel=1e-9), name


def test_a_loss_that_is_not_finite_shows_whichever_round_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def first_infinite(*outputs: Any) -> FakeScoreLosses:
        nonlocal rounds
        rounds += 1
        losses = fake_score_losses(*outputs)
        return replace(losses, loss_psi=losses.loss_psi * (torch.inf if rounds == 1 else 1))

    monkeypatch.setattr(iteration, "fake_score_losses", first_infinite)
    job = distillation(micro_batch=8)
    losses = job.run(0)
    assert rounds == 4 and job.non_finite.counts.tolist() == [0, 1]
    assert not losses["loss_psi"].isfinite() and losses["loss_D"].isfinite()


@pytest.mark.parametrize("changes", [{"micro_batch": 6}, {"micro_batch": 2}, {"batch": 36, "micro_batch": 16}])
def test_a_micro_batch_that_splits_a_loss_group_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"execution.micro_batch .* groups of 4"):
        distillation(**changes)  # type: ignore[arg-type]
