"""Denoisers of all architectures: what the three return modes, labels, dtypes and state dicts promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sida.numerics.networks.build import build_network
from sida.numerics.networks.magnitude import force_normalization, magnitude_weights
from sida.numerics.networks.precondition import Denoiser

ARCHITECTURES = ["ddpmpp", "ncsnpp", "adm", "edm2"]


def tiny(architecture: str, label_dim: int = 3, augment_dim: int = 0) -> Denoiser:
    torch.manual_seed(0)
    network = build_network(
        {
            "architecture": architecture,
            "resolution": 8,
            "channels": 2,
            "label_dim": label_dim,
            "augment_dim": augment_dim,
            "model_channels": 8,
            "channel_mult": (1, 8),  # 64 channels: one head of ADM and EDM2
            "num_blocks": 1,
            "attn_resolutions": (4,),
        }
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.1, 1.0, 10.0])
LABELS = torch.eye(3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_alone_equal_those_of_the_joint_call_and_never_run_the_decoder(architecture: str) -> None:
    network = tiny(architecture)
    image, logits = network(X, SIGMA, LABELS, want="both")
    assert torch.equal(network(X, SIGMA, LABELS), image)
    decoder = network.trunk.dec
    for module in decoder.values():
        module.register_forward_pre_hook(lambda *_: pytest.fail("the decoder ran"))
    assert torch.equal(network(X, SIGMA, LABELS, want="logits"), logits)
    assert logits.shape == (3, 1, 4, 4)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_labels_are_zeros(architecture: str) -> None:
    network = tiny(architecture)
    torch.testing.assert_close(network(X, SIGMA), network(X, SIGMA, torch.zeros(3, 3)), rtol=0, atol=1e-6)
    assert not torch.equal(network(X, SIGMA), network(X, SIGMA, LABELS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_unconditional_network_ignores_labels(architecture: str) -> None:
    network = tiny(architecture, label_dim=0)
    expected = network(X, SIGMA)
    for labels in (torch.zeros(3, 0), LABELS):
        assert torch.equal(network(X, SIGMA, labels), expected)


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_no_augmentation_labels_are_zeros(architecture: str) -> None:
    network = tiny(architecture, augment_dim=9)
    assert torch.equal(network(X, SIGMA, LABELS), network(X, SIGMA, LABELS, torch.zeros(3, 9)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sample_does_not_depend_on_its_batch_nor_on_how_sigma_is_given(architecture: str) -> None:
    network = tiny(architecture)
    together = network(X, 0.7, LABELS)
    torch.testing.assert_close(together, network(X, torch.full((3,), 0.7), LABELS))
    torch.testing.assert_close(together[1:2], network(X[1:2], 0.7, LABELS[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_as_near_to_float64_as_rounding_allows(architecture: str) -> None:
    network = tiny(architecture)
    single, _ = network(X, SIGMA, LABELS, want="both")
    double, _ = network.double()(X.double(), SIGMA.double(), LABELS.double(), want="both")
    assert double.dtype == torch.float64
    # Eight layers of sums of up to 600 products: a few hundred times float32's rounding.
    torch.testing.assert_close(single.double(), double, rtol=3e-5, atol=3e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_trunk_returns_float32_near_the_exact_image(architecture: str, dtype: torch.dtype) -> None:
    network = tiny(architecture)
    exact, exact_logits = network(X, SIGMA, LABELS, want="both")
    network.working_dtype = dtype
    image, logits = network(X, SIGMA, LABELS, want="both")
    assert image.dtype == logits.dtype == torch.float32
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    # About 30 roundings in a row, of 2^-11 (float16) or 2^-8 (bfloat16).
    relative = 30 * (2.0**-11 if dtype == torch.float16 else 2.0**-8)
    assert float((image - exact).norm() / exact.norm()) < relative
    assert float((logits - exact_logits).norm() / exact_logits.norm()) < relative


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_is_its_state_dict(architecture: str) -> None:
    one, other = tiny(architecture), tiny(architecture)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(X, SIGMA, LABELS), other(X, SIGMA, LABELS))
    prefix = "unet." if architecture == "edm2" else "model."
    assert all(name.startswith(prefix) for name in one.state_dict())


@torch.no_grad()
def test_forced_normalization_hardly_changes_the_output() -> None:
    network = tiny("edm2")
    before = network(X, SIGMA, LABELS)
    force_normalization(magnitude_weights(network).values())
    after = network(X, SIGMA, LABELS)
    # The two normalisations differ by eps 1e-4 over the weight's rms 0.2.
    assert float((after - before).norm() / before.norm()) < 1e-2
    rms = network.unet.enc["8x8_conv"].weight.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), rtol=2e-3, atol=0)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="'unet' is not known"):
        build_network({"architecture": "unet", "resolution": 8, "channels": 2})


def song(**fields: Any) -> dict[str, Any]:
    return {"architecture": "ddpmpp", "augment_dim": 9, "channels": 3, "num_blocks": 4, "model_channels": 128} | fields


def edm2(width: int) -> dict[str, Any]:
    return {
        "architecture": "edm2", "resolution": 64, "channels": 4, "label_dim": 1000, "model_channels": width,
        "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (16, 8), "logvar_channels": 128,
    }  # fmt: skip


ADM = {
    "architecture": "adm", "resolution": 64, "channels": 3, "label_dim": 1000, "model_channels": 192,
    "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "millions"),
    [
        (song(resolution=32, label_dim=0, channel_mult=(2, 2, 2), attn_resolutions=(16,)), 55.73),
        (song(resolution=32, label_dim=10, channel_mult=(2, 2, 2), attn_resolutions=(16,)), 55.74),
        (song(resolution=64, label_dim=0, channel_mult=(1, 2, 2, 2), attn_resolutions=(16,)), 61.81),
        (ADM, 295.90),
        *((edm2(width), count) for width, count in
          ((128, 124.7), (192, 280.2), (256, 497.8), (320, 777.5), (384, 1119.3), (448, 1523.2))),
    ],
)  # fmt: skip
def test_full_size_networks_have_the_published_number_of_parameters(fields: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = build_network(fields)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    decimals = 2 if fields["architecture"] != "edm2" else 1
    assert round(count, decimals) == pytest.approx(millions)


def test_folded_weights_of_a_frozen_edm2_layer_follow_every_change_of_weight_gain_and_precision() -> None:
    from sida.numerics.networks.magnitude import MPConv

    layer, gain = MPConv(3, 5, (3, 3)).requires_grad_(False), torch.ones([])
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def fresh() -> torch.Tensor:
        twin = MPConv(3, 5, (3, 3))
        twin.load_state_dict(layer.state_dict())
        return twin(x, gain).detach()

    first = layer(x, gain)
    assert layer._folded is not None and torch.equal(first, fresh())
    kept = layer._folded[1]
    layer(x, gain)
    assert layer._folded[1] is kept  # not computed again
    with torch.no_grad():
        torch._foreach_lerp_([layer.weight], [torch.ones_like(layer.weight)], 0.5)
    assert torch.equal(layer(x, gain), fresh())
    gain.fill_(2.0)
    assert torch.equal(layer(x, gain), fresh())
    layer.load_state_dict(MPConv(3, 5, (3, 3)).state_dict())
    assert torch.equal(layer(x, gain), fresh())
    assert layer(x.bfloat16(), gain).dtype == torch.bfloat16
    assert torch.equal(layer(x, gain), fresh())


def test_a_training_edm2_layer_is_never_folded_and_gets_its_gradient() -> None:
    from sida.numerics.networks.magnitude import MPConv

    layer = MPConv(3, 5, (3, 3))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer(x)
    assert layer._folded is not None
    layer(x).sum().backward()
    assert layer._folded is None
    assert layer.weight.grad is not None


def test_attention_reaches_an_accelerator_with_channels_last_as_fused_kernels_ask() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from sida.numerics.networks import layers

    seen: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "scaled_dot_product" in str(func):
                seen.extend(part.stride(-1) for part in args[:3])
            return func(*args, **(kwargs or {}))

    with Watch():
        assert layers.attend(torch.empty(2, 24, 4, 4, device="meta"), 2).shape == (2, 8, 4, 4)
    assert seen == [1, 1, 1]
