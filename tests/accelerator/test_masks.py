"""What dropout's masks cost on the accelerator: kernels, and bytes that travel between it and its memory."""

from __future__ import annotations

import pytest
import torch

from sida import recipe
from sida.numerics.networks.build import build_network
from sida.numerics.networks.layers import Dropout, key_dropout
from tests.accelerator.device import device, moved, shapes
from tests.accelerator.traffic import CountedDraws


@pytest.mark.parametrize("name", ["cifar10-uncond", "ffhq-64", "imagenet-64", "imagenet-512-edm2-m"])
def test_a_layer_s_mask_is_one_kernel_and_two_bytes_an_element_at_most(name: str) -> None:
    loaded = recipe.load(name)
    fields, micro = loaded.teacher.network, loaded.execution.micro_batch or loaded.method.loss_group
    with shapes():
        network = moved(build_network(fields.model_dump(), loaded.method.dropout)).train()
        draws, indices = CountedDraws(), torch.arange(micro, device=device())
        images = torch.empty(micro, fields.channels, fields.resolution, fields.resolution, device=device())
        labels = torch.empty(micro, fields.label_dim, device=device())
        key_dropout(network, draws, "A", indices)  # type: ignore[arg-type]
        for _ in range(2):  # at first positions are counted out, which later masks use again
            seen = len(draws.masks)
            with torch.no_grad():
                network(images, torch.ones(micro, device=device()), labels)
    layers = [module for module in network.modules() if isinstance(module, Dropout) and module.p > 0]
    masks = draws.masks[seen:]
    assert len(masks) == len(layers) > 10
    for elements, traffic in masks:
        assert traffic.kernels == ["sida::philox_masks"]
        assert elements <= traffic.bytes <= 2 * elements
