"""What is counted on the meta device: multiply-adds, encoder shares, forwards per image, and what autograd really keeps."""

from __future__ import annotations

import pytest
import torch

from sida import recipe
from sida.numerics.networks.build import build_network
from sida.numerics.networks.layers import Dropout
from sida.recipe import Execution, Network
from sida.training.cost import IterationCost, forward_flops, iteration_cost
from tests.training.tiny import NETWORK, method

# GMAC of a forward and the encoder's share: torch's counter on NVIDIA's networks (tests/golden/facts), rounded as published.
PUBLISHED = {
    "cifar10-uncond": (21.1, 0.325),
    "ffhq-64": (41.5, 0.289),
    "imagenet-64": (109.7, 0.272),
    "imagenet-512-edm2-xs": (45, 0.263),
    "imagenet-512-edm2-s": (101, 0.263),
    "imagenet-512-edm2-m": (179, 0.263),
    "imagenet-512-edm2-l": (279, 0.263),
    "imagenet-512-edm2-xl": (402, 0.263),
    "imagenet-512-edm2-xxl": (547, 0.263),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_and_encoder_share_are_the_published_ones(name: str) -> None:
    gmac, share = PUBLISHED[name]
    with torch.device("meta"):
        network = build_network(recipe.load(name).teacher.network.model_dump())
    whole, encoder = forward_flops(network)
    assert whole / 2e9 == pytest.approx(gmac, rel=0.03)
    assert encoder / whole == pytest.approx(share, abs=0.005)


def count(name: str) -> IterationCost:
    loaded = recipe.load(name)
    return iteration_cost(loaded.teacher.network, loaded.method)


@pytest.mark.parametrize(
    "name",
    [
        "cifar10-uncond",
        pytest.param("ffhq-64", marks=pytest.mark.slow),
        pytest.param("imagenet-64", marks=pytest.mark.slow),
        pytest.param("imagenet-512-edm2-xs", marks=pytest.mark.slow),
    ],
)
def test_an_iteration_is_twelve_forwards_per_image_and_no_more(name: str) -> None:
    cost = count(name)
    # A: generator, fake score forward and backward, encoder forward and backward. B: generator forward and backward, teacher and
    # fake score forward and input gradient. Tolerance: first layers need no input gradient, embeddings are counted per sample.
    assert cost.A.flops / cost.forward_flops == pytest.approx(1 + 3 + 3 * cost.encoder_share, abs=0.02)
    assert cost.B.flops / cost.forward_flops == pytest.approx(3 + 2 + 2, abs=0.12)
    assert 11.8 <= cost.forwards <= 12.0


def test_sid_does_without_the_real_images() -> None:
    network = Network(**NETWORK)  # type: ignore[arg-type]
    sid, sida = iteration_cost(network, method(name="sid")), iteration_cost(network, method())
    assert sid.A.flops / sid.forward_flops == pytest.approx(4, abs=0.1)
    assert sida.A.flops - sid.A.flops == pytest.approx(3 * sida.encoder_flops, rel=0.05)
    assert sid.A.bytes_per_image < sida.A.bytes_per_image


def test_masks_are_one_element_for_each_activation_that_dropout_sees() -> None:
    network = Network(**NETWORK)  # type: ignore[arg-type]
    seen: list[int] = []
    whole = build_network(NETWORK, dropout=0.1).train()
    for module in whole.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    whole(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.zeros(1, 10))
    sid, sida, without = (iteration_cost(network, m) for m in (method(name="sid"), method(), method(dropout=0.0)))
    assert sid.A.masks == sid.B.masks == sida.B.masks == sum(seen)
    assert sid.A.masks < sida.A.masks < 2 * sid.A.masks  # the real images' pass ends with the encoder
    assert without.A.masks == without.B.masks == 0


def test_half_precision_halves_most_activations() -> None:
    network = Network(**NETWORK)  # type: ignore[arg-type]
    single, half = (iteration_cost(network, method(precision=p)) for p in ("float32", "bfloat16"))
    assert 0.45 < half.B.bytes_per_image / single.B.bytes_per_image < 0.75
    assert half.B.flops == single.B.flops
    assert iteration_cost(network, method(precision="tf32")) == single


def test_weights_with_the_channels_last_are_copies_in_float32_alone() -> None:
    network = Network(**NETWORK)  # type: ignore[arg-type]
    for precision, copies in (("float32", True), ("bfloat16", False)):
        plain, turned = (
            iteration_cost(network, method(precision=precision), Execution(checkpoint_every=1, channels_last=last))
            for last in (False, True)
        )
        assert (turned.B.bytes_per_round > plain.B.bytes_per_round) is copies
        assert turned.B.bytes_per_image == pytest.approx(plain.B.bytes_per_image, rel=0.01)


def test_training_a_teacher_is_three_forwards_an_image_with_a_forward_s_masks() -> None:
    loaded = recipe.load("patches-32")
    train = loaded.teacher.train
    assert train is not None and train.dropout > 0
    cost = iteration_cost(loaded.teacher.network, loaded.method, training=train)
    flops, masks = cost.teaching
    assert flops / cost.forward_flops == pytest.approx(3, abs=0.05)  # first layers need no input gradient
    with torch.device("meta"):
        network = build_network(loaded.teacher.network.model_dump(), train.dropout)
    seen: list[int] = []
    for module in network.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    network.eval()(torch.empty(1, 3, 32, 32, device="meta"), torch.ones(1), torch.empty(1, 2, device="meta"))
    assert masks == sum(seen) > 0
    assert iteration_cost(loaded.teacher.network, loaded.method).teaching == (0, 0)
