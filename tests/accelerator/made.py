"""Distillations of narrow networks on any device, and data for those of full size, which hold no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sida import devices
from sida.data.digits import load_digits_images
from sida.data.reader import ShuffledOrder
from sida.numerics.draws import Draws
from sida.numerics.networks.build import build_network
from sida.recipe import Network
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes
from tests.accelerator.device import device as accelerator
from tests.training import tiny

_SMALL = {"resolution": 8, "channels": 1, "label_dim": 10, "channel_mult": (1, 2), "num_blocks": 1}
NETWORKS: dict[str, dict[str, Any]] = {
    "ddpmpp": tiny.NETWORK,
    "ncsnpp": {**tiny.NETWORK, "architecture": "ncsnpp", "augment_dim": 0},
    "adm": {**_SMALL, "architecture": "adm", "model_channels": 32, "attn_resolutions": (4,)},
    "edm2": {**_SMALL, "architecture": "edm2", "model_channels": 16, "attn_resolutions": (4,), "channels_per_head": 8},
}
NETWORKS["edm2 with head"] = {**NETWORKS["edm2"], "logvar_channels": 8}


class Digits:
    """The digits in shuffled order, sent to a device as the reader does."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        images, labels = map(torch.from_numpy, load_digits_images())
        self.device, self.dtype = device, dtype
        self.images, self.labels = images.to(dtype) / 127.5 - 1, torch.nn.functional.one_hot(labels, 10).to(dtype)
        self.order = ShuffledOrder(len(images), 0)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        items = self.order(positions)
        return devices.sent(self.images[items], self.device), devices.sent(self.labels[items], self.device)


def distillation(network: str, device: torch.device, micro_batch: int = 4, **changes: Any) -> Distillation:
    """Fresh networks with seeded weights, none of them zero; batch 8 in two rounds, and warm-ups that have ended at 8 images."""
    fields = {"batch": 8, "loss_group": 4, "generator_from": 0, "adversarial_from": 0, "dropout": 0.1}
    chosen = tiny.method(**(fields | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = build_network(NETWORKS[network], chosen.dropout)
        for parameter in teacher.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    networks = Networks.start(teacher.to(device))
    return Distillation(networks, chosen, Draws(0), Digits(device), Processes(0, 1, device), micro_batch)


class EmptyData:
    """Batches of the right shape and no content."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        network, count = self.network, len(positions)
        images = torch.empty(count, network.channels, network.resolution, network.resolution, device=accelerator())
        return images, torch.empty(count, network.label_dim, device=accelerator())


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What CUDA takes; torch's choice for a device that it does not know writes the matrix of scores."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
