"""net_*.safetensors, networks.json: preconditioned networks, their logits, gradients and forced weight normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sida.numerics.networks.magnitude import force_normalization, magnitude_weights
from sida.numerics.networks.precondition import Denoiser, edm_coefficients, sigma_column
from tests.golden.build import build, gradient_norms, without_dropout
from tests.golden.compare import Case, Checks, Folder, Golden

PATTERNS = ["networks.json", "net_*.safetensors"]
ONE_SIGMA = 0.7  # the single noise level of D_one_sigma, which the files do not hold
OUTPUT, GRADIENT = 1e-5, 1e-4


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has("networks.json"):
        return
    for tag, arguments in folder.json("networks.json").items():
        yield Case(f"networks/{tag}", lambda checks, t=tag, a=arguments: _network(checks, folder, t, a))


def load(folder: Folder, name: str) -> Denoiser:
    """The network of the file ``name`` (net_<tag>)."""
    golden = folder.tensors(f"{name}.safetensors")
    return build(folder.json("networks.json")[name.removeprefix("net_")], golden.under("state/"))


def _network(checks: Checks, folder: Folder, tag: str, arguments: dict[str, Any]) -> None:
    golden = folder.tensors(f"net_{tag}.safetensors")
    network = load(folder, f"net_{tag}")
    x, sigma = golden["x"].requires_grad_(True), golden["sigma"]
    labels, augment = golden.get("labels"), golden.get("augment_labels")

    image, logits = network(x, sigma, labels, augment, want="both")
    total = image.square().mean() + logits.square().mean()
    _output(checks, "D", image, golden["D"])
    _output(checks, "logits", logits, golden["logits"])
    if "logvar" in golden:
        logvar = network.logvar(sigma)
        assert logvar is not None
        total = total + logvar.square().mean()
        _output(checks, "logvar", logvar, golden["logvar"])
    total.backward()
    _gradients(checks, network, x, golden, arguments["grad_norm_order"])
    with torch.no_grad():
        _output(checks, "D alone", network(x, sigma, labels, augment), golden["D"])
        _output(checks, "logits alone", network(x, sigma, labels, augment, want="logits"), golden["logits"])
        _variants(checks, network, golden, x, sigma, labels, augment)
        if "D_after_forced_norm" in golden:
            _forced(checks, network, golden, x, sigma, labels, arguments["grad_norm_order"])


def _output(checks: Checks, what: str, ours: Tensor, golden: Tensor) -> None:
    checks.close(what, ours, golden, OUTPUT, OUTPUT)


def _gradients(checks: Checks, network: Denoiser, x: Tensor, golden: Golden, order: list[str]) -> None:
    assert x.grad is not None
    scale = float(golden["grad_x"].abs().max())
    checks.close("grad_x", x.grad / scale, golden["grad_x"] / scale, GRADIENT, GRADIENT)
    compare_norms(checks, "grad_norms", gradient_norms(network, order), golden["grad_norms"], order)


def compare_norms(checks: Checks, what: str, ours: Tensor, golden: Tensor, order: list[str]) -> None:
    """Gradient norms per parameter, 1e-4 relative.

    The golden -1 ("no gradient") and 0 both agree with no gradient of ours: where the authors pass zeros we may pass none. The
    attention keys' part of ``qkv.bias`` is rounding noise, hence those are skipped, as are differences below 1e-7 of the largest.
    """
    names = [index for index, name in enumerate(order) if not name.endswith("qkv.bias")]
    ours, golden = ours[names], golden[names].double()
    golden = golden.clamp_min(0)  # keeps NaN
    silent = ours.isnan() & (golden == 0)
    ours = torch.where(silent, 0.0, ours)
    finite = golden[golden.isfinite()]
    floor = 1e-7 * float(finite.max()) if len(finite) else 0.0
    near = (ours - golden).abs() <= floor
    checks.close(what, torch.where(near, golden, ours), golden, 0.0, GRADIENT)


def _variants(
    checks: Checks,
    network: Denoiser,
    golden: Golden,
    x: Tensor,
    sigma: Tensor,
    labels: Tensor | None,
    augment: Tensor | None,
) -> None:
    zeros = None if labels is None else torch.zeros_like(labels)
    no_augment = None if augment is None else torch.zeros_like(augment)
    variants = {
        "D_one_sigma": (ONE_SIGMA, labels, augment),
        "D_labels_none": (sigma, None, augment),
        "D_labels_zeros": (sigma, zeros, augment),
        "D_no_augment_labels": (sigma, labels, None),
        "D_zero_augment_labels": (sigma, labels, no_augment),
    }
    for name, (level, c, a) in variants.items():
        if name in golden:
            _output(checks, name, network(x, level, c, a), golden[name])
    if "enc_out" in golden:
        _output(checks, "enc_out", last_activation(network, x, sigma, labels, augment), golden["enc_out"])


def last_activation(
    network: Denoiser, x: Tensor, sigma: Tensor, labels: Tensor | None, augment: Tensor | None
) -> Tensor:
    """The encoder's last activation, whose channel mean is the discriminator's map."""
    _, _, c_in, c_noise = edm_coefficients(sigma_column(sigma, x))
    emb = network.trunk.embed(c_noise.flatten(), labels, augment)
    return network.trunk.encode(c_in * x, emb)[-1]


def _forced(
    checks: Checks,
    network: Denoiser,
    golden: Golden,
    x: Tensor,
    sigma: Tensor,
    labels: Tensor | None,
    order: list[str],
) -> None:
    """Normalize the trunk, then one forward in training mode; it changes the network, so it comes last."""
    network.train()
    without_dropout(network)
    force_normalization(magnitude_weights(network.trunk).values())  # no forward of these uses the head
    _output(checks, "D_after_forced_norm", network(x, sigma, labels), golden["D_after_forced_norm"])
    parameters = dict(network.named_parameters())
    for name, weight in golden.under("forced/").items():
        _output(checks, f"forced {name}", parameters[name], weight)
    norms = torch.stack([parameters[name].double().norm() for name in order])
    _output(checks, "forced_norms", norms, golden["forced_norms"])
