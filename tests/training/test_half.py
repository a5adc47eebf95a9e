"""float16's gradients are no worse than the published runs', and phase A's two passes see different dropout masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sida.numerics.draws import Draws
from sida.numerics.networks.build import build_network
from sida.recipe import Method
from sida.training import gradients
from sida.training.distill_step import _revisions
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes
from tests.training.tiny import distillation, edm2, largest_difference, method, run

# 8x8 logits of 128 channels, as the published networks' are of more: a share of 1 / (64 x 128) for each element.
NETWORK = {"architecture": "adm", "resolution": 16, "channels": 1, "label_dim": 10, "model_channels": 64}
NETWORK |= {"channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}
BATCH = 512


class Data:
    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = Draws(1).normal("x", positions, (1, 16, 16)) * 0.5
        return x, torch.eye(10)[positions % 10]


class Alone:
    """One process's gradients, not summed."""

    def __init__(self, network: torch.nn.Module, processes: Processes) -> None:
        self.parameters = list(network.parameters())

    def arm(self, on: bool = True) -> None:
        pass

    def finish(self) -> None:
        pass


def gradient(precision: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """psi's in phase A, of one process's two images of a batch of 512: the discriminator's alone, which is the smallest."""
    taken: list[torch.Tensor] = []
    monkeypatch.setattr(gradients, "GradientSum", Alone)
    monkeypatch.setattr(
        gradients, "sanitize_gradients", lambda g, clip=None: taken.append(torch.cat([t.flatten().double() for t in g]))
    )
    fields: dict[str, Any] = {"batch": BATCH, "loss_group": 2, "precision": precision, "dropout": 0.0}
    chosen = method(**fields, fake_score_weight=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = build_network(NETWORK)
        for parameter in teacher.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    job = Distillation(Networks.start(teacher), chosen, Draws(0), Data(), Processes(0, BATCH // 2, torch.device("cpu")))
    job.update_fake_score(0)
    return taken[0]


def test_gradients_in_float16_err_no_more_than_with_the_published_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gradient("float32", monkeypatch)

    def error(precision: str) -> float:
        return float((gradient(precision, monkeypatch) - exact).norm() / exact.norm())

    ours = error("float16")
    monkeypatch.setattr(Method, "loss_scale", 1)
    unscaled = error("float16")
    monkeypatch.setattr(Method, "loss_scale", 4)  # batch_gpu_total = batch / 4 in the published runs
    assert ours == error("float16") < 0.2
    assert unscaled > 0.4  # what is below float16's smallest number is lost


def test_the_scale_is_a_power_of_two_and_changes_no_bit_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(distillation(dtype=torch.float32), 3)
    monkeypatch.setattr(Method, "loss_scale", 4)
    scaled = run(distillation(dtype=torch.float32), 3)
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


@pytest.mark.parametrize("make", [distillation, edm2])
def test_the_fake_and_the_real_pass_see_different_masks(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[torch.Tensor]] = {}
    keep = Draws.keep

    def kept(self: Draws, purpose: str, *arguments: Any, **more: Any) -> torch.Tensor:
        drawn = keep(self, purpose, *arguments, **more)
        asked.setdefault(purpose, []).append(drawn)
        return drawn

    monkeypatch.setattr(Draws, "keep", kept)
    job = make()
    job.update_fake_score(0)
    layers = [name.removeprefix("A/fake/") for name in asked if name.startswith("A/fake/")]
    both = [name for name in layers if f"A/real/{name}" in asked]
    assert both and len(both) < len(layers)  # the real pass runs the encoder alone
    for name in both:
        assert not torch.equal(asked[f"A/fake/{name}"][0], asked[f"A/real/{name}"][0])
    asked.clear()
    make(name="sid").update_fake_score(0)
    assert asked and all(name.startswith("A/dropout/") for name in asked)  # one pass, as before


def test_only_runs_whose_numbers_changed_have_another_key() -> None:
    def of(**fields: Any) -> dict[str, Any]:
        from types import SimpleNamespace

        return _revisions(SimpleNamespace(method=method(**fields)))  # type: ignore[arg-type]

    assert of(dropout=0.0) == of(name="sid") == of(dropout=0.0, precision="bfloat16") == {}
    assert of(precision="float16", dropout=0.0) == {"loss_scale": 4}
    assert of() == {"masks_of_phase_a": 2}


def test_nothing_differs_by_more_than_rounding_from_float16_to_float32() -> None:
    assert largest_difference(run(edm2(), 1), run(edm2(precision="float16"), 1)) < 0.05
