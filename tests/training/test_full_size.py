"""One full iteration of both phases of whole published networks, on CPU at batch 2: finite losses, every network in place."""

from __future__ import annotations

import pytest
import torch

from sida.numerics.draws import Draws
from sida.numerics.networks.build import build_network
from sida.recipe import Method
from sida.training.iteration import Distillation, Networks
from tests.training.tiny import ALONE

CIFAR10 = {
    "architecture": "ddpmpp",
    "resolution": 32,
    "channels": 3,
    "label_dim": 10,
    "augment_dim": 9,
    "model_channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
}
EDM2_XS = {
    "architecture": "edm2",
    "resolution": 64,
    "channels": 4,
    "label_dim": 1000,
    "model_channels": 128,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (16, 8),
    "logvar_channels": 128,
}


class Noise:
    """Images of the right shape; the numbers do not matter here."""

    def __init__(self, channels: int, resolution: int, classes: int) -> None:
        self.shape, self.classes = (channels, resolution, resolution), classes

    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.nn.functional.one_hot(positions % self.classes, self.classes).float()
        return Draws(7).normal("images", positions, self.shape).clamp(-1, 1), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (CIFAR10, {"dropout": 0.13, "augment": 0.12}),
        (EDM2_XS, {"P_mean": -0.4, "P_std": 1.0, "clip_fake_score": False, "forced_normalization": True}),
    ],
    ids=["cifar10", "edm2-xs"],
)
def test_a_published_network_runs_one_iteration_of_both_phases(
    network: dict[str, object], changes: dict[str, object]
) -> None:
    method = Method(
        name="sida",
        images=1_000_000,
        batch=2,
        loss_group=2,
        alpha=1.0,
        fake_score_rate=1e-5,
        generator_rate=1e-5,
        **changes,  # type: ignore[arg-type]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = build_network(network, method.dropout)
        for parameter in teacher.parameters():  # fresh networks start with silent layers
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    data = Noise(int(str(network["channels"])), int(str(network["resolution"])), int(str(network["label_dim"])))
    job = Distillation(Networks.start(teacher), method, Draws(0), data, ALONE)
    start = {name: parameter.clone() for name, parameter in job.networks.theta.named_parameters()}
    losses = job.run(300_000)  # beyond both warm-ups
    assert set(losses) == {"loss_psi", "loss_D", "loss_sid", "loss_adv"}
    assert all(torch.isfinite(value) for value in losses.values())
    assert int(job.dropped) == 0
    moved = [name for name, p in job.networks.theta.named_parameters() if not torch.equal(start[name], p)]
    assert len(moved) > 0.9 * sum(p.requires_grad for p in job.networks.theta.parameters())
