"""A small distillation on real digits, in this process or in several."""

from __future__ import annotations

import torch

from sida.data.digits import load_digits_images
from sida.data.reader import ShuffledOrder
from sida.numerics.draws import Draws, DrawSource
from sida.numerics.networks.build import build_network
from sida.recipe import Execution, Method
from sida.training.iteration import Distillation, Networks
from sida.training.sharding import divide
from sida.worker.ranks import Processes

NETWORK = {
    "architecture": "ddpmpp",
    "resolution": 8,
    "channels": 1,
    "label_dim": 10,
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
}
EDM2 = {
    "architecture": "edm2",
    "resolution": 8,
    "channels": 1,
    "label_dim": 10,
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (),
}
ALONE = Processes(0, 1, torch.device("cpu"))


class DoubleDraws(Draws):
    """The project's draws in float64."""

    def normal(self, purpose, indices, shape=(), dtype=torch.float64):  # type: ignore[no-untyped-def]
        return super().normal(purpose, indices, shape, dtype)

    def uniform(self, purpose, indices, shape=(), dtype=torch.float64):  # type: ignore[no-untyped-def]
        return super().uniform(purpose, indices, shape, dtype)


class Digits:
    """The digits in shuffled order."""

    def __init__(self, dtype: torch.dtype) -> None:
        images, labels = map(torch.from_numpy, load_digits_images())
        self.images = images.to(dtype) / 127.5 - 1
        self.labels = torch.nn.functional.one_hot(labels, 10).to(dtype)
        self.order = ShuffledOrder(len(images), 0)

    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        items = self.order(positions)
        return self.images[items], self.labels[items]


def method(**changes: object) -> Method:
    """SiDA whose warm-ups end within a few iterations."""
    fields: dict[str, object] = {
        "name": "sida",
        "images": 640,
        "batch": 32,
        "loss_group": 4,
        "alpha": 1.0,
        "fake_score_rate": 1e-3,
        "generator_rate": 1e-3,
        "generator_from": 32,
        "adversarial_from": 64,
        "ema_half_life": 50,
        "dropout": 0.1,
    }
    return Method(**(fields | changes))  # type: ignore[arg-type]


def distillation(
    processes: Processes = ALONE,
    micro_batch: int | None = None,
    dtype: torch.dtype = torch.float64,
    network: dict[str, object] = NETWORK,
    execution: Execution | None = None,
    **changes: object,
) -> Distillation:
    """Fresh networks with seeded weights, none of them zero, and the project's own draws; divided as ``execution`` says."""
    chosen = method(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = build_network(network, chosen.dropout)
        for parameter in teacher.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    draws: DrawSource = DoubleDraws(0) if dtype == torch.float64 else Draws(0)
    networks = Networks.start(teacher.to(dtype))
    if execution is not None:
        divide(networks, execution, processes)
    return Distillation(networks, chosen, draws, Digits(dtype), processes, micro_batch)


def edm2(**changes: object) -> Distillation:
    """The same on EDM2's magnitude-preserving network, in float32."""
    return distillation(dtype=torch.float32, network=EDM2, **changes)


def run(job: Distillation, iterations: int, seen: int = 0) -> dict[str, torch.Tensor]:
    """Iterate, then all tensors of the three networks by name."""
    for number in range(iterations):
        job.run(seen + number * job.method.batch)
    networks = {"psi": job.networks.psi, "theta": job.networks.theta, "ema": job.networks.theta_ema}
    return {f"{n}/{key}": t.clone() for n, net in networks.items() for key, t in net.state_dict().items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest relative norm of a difference. The attention keys' biases have a true gradient of zero, which Adam's

    normalisation turns from rounding noise into steps: they are no part of the comparison (golden numbers' README).
    """
    names = [name for name in a if not name.endswith("qkv.bias")]
    return max(float((a[n] - b[n]).norm() / a[n].norm().clamp(min=1e-12)) for n in names)
