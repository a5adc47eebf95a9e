"""losses_*.safetensors, losses.json: one phase A or B with small networks: losses, gradients, sanitising and clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sida.numerics.losses import fake_score_losses, generator_losses, sanitize_gradients
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.schedules import fake_score_sigma, generator_sigma
from tests.golden.build import build, gradient_norms
from tests.golden.compare import Case, Checks, Folder, Golden
from tests.golden.networks import compare_norms

PATTERNS = ["losses.json", "losses_*.safetensors"]
LOSS, GRADIENT, OUTPUT = 1e-5, 1e-4, 1e-5
CLIP = 1.0  # of ``grad_norms_sanitised_and_clipped``


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has("losses.json"):
        return
    for name, meta in folder.json("losses.json").items():
        golden = folder.tensors(name)
        tag = name.removesuffix(".safetensors")
        yield Case(f"{tag}/generated", lambda checks, g=golden, m=meta: _generated(checks, g, m))
        for case in meta["scalars"]:
            run = _fake_score if case.startswith("A") else _generator
            yield Case(f"{tag}/{case}", lambda checks, r=run, g=golden, m=meta, c=case: r(checks, g, m, c))


def _network(golden: Golden, meta: dict[str, Any], which: str) -> Denoiser:
    arguments = meta["constructor"] | {"sigma_data": meta["sigma_data"]}
    return build(arguments, golden.under(f"{which}/"))


def _generated(checks: Checks, golden: Golden, meta: dict[str, Any]) -> None:
    theta = _network(golden, meta, "theta")
    with torch.no_grad():
        y = _generate(theta, golden)
    checks.close("y", y, golden["y"], OUTPUT, OUTPUT)
    checks.true("theta_y_same_as_y", int(golden["theta_y_same_as_y"]) in (0, 1))


def _generate(theta: Denoiser, golden: Golden) -> Tensor:
    """G at the noise level that the scaled input implies; every published run uses 2.5."""
    return theta(golden["z_times_sigma_init"], 2.5, golden["labels"])


def _loss(checks: Checks, what: str, ours: Tensor, golden: Tensor) -> None:
    """1e-5 relative to the tensor's largest element: a per-element loss is a product of differences of network outputs, so that
    small elements are rounding. The sums are compared on their own, 1e-5 relative."""
    size = float(golden.abs().max())
    checks.close(what, ours / size, golden / size, LOSS, LOSS)


def _fake_score(checks: Checks, golden: Golden, meta: dict[str, Any], case: str) -> None:
    psi = _network(golden, meta, "psi").train()
    given = golden.under(f"{case}/")
    y, x = given.get("y_aug", given.get("y")), given.get("x_aug", given.get("x_real"))
    y, x = golden["y"] if y is None else y, golden["x_real"] if x is None else x
    labels, labels_y, labels_x = golden["labels"], given.get("labels_y"), given.get("labels_x")
    adversarial = "loss_D" in given

    sigma = fake_score_sigma(given["n1"], meta["P_mean"], meta["P_std"])
    noise = given["eps"] * sigma
    l_fake = l_real = None
    if adversarial:
        y_psi, l_fake = psi(y + noise, sigma, labels, labels_y, want="both")
        l_real = psi(x + noise, sigma, labels, labels_x, want="logits")
    else:
        y_psi = psi(y + noise, sigma, labels, labels_y)
    losses = fake_score_losses(y, y_psi, sigma, l_fake, l_real, psi.logvar(sigma))
    scalings, scalars = meta["scalings"], meta["scalars"][case]
    total = scalings["ls"] * losses.loss_psi.sum() / scalings["batch_gpu_total"]
    _loss(checks, "loss_psi", losses.loss_psi[losses.keep], given["loss_psi"])
    checks.close("loss_psi_scaled", total, scalars["loss_psi_scaled"], 0.0, LOSS)
    if losses.loss_D is not None:
        scaled = scalings["lsd"] * losses.loss_D.sum() / scalings["batch_gpu_total"]
        _loss(checks, "loss_D", losses.loss_D[losses.keep], given["loss_D"])
        checks.close("loss_D_scaled", scaled, scalars["loss_D_scaled"], 0.0, LOSS)
        total = total + scaled
    total.backward()
    _gradients(checks, psi, given, meta["psi_grad_order"])


def _generator(checks: Checks, golden: Golden, meta: dict[str, Any], case: str) -> None:
    phi, psi = (_network(golden, meta, which).requires_grad_(False) for which in ("phi", "psi"))
    theta = _network(golden, meta, "theta").train()
    given, scalars, scalings = golden.under(f"{case}/"), meta["scalars"][case], meta["scalings"]
    labels = golden["labels"]

    y = _generate(theta, golden)
    sigma = generator_sigma(given["u"], scalars["tmax"])
    noisy = y + given["eps"] * sigma
    logits = None
    if scalars["gan"]:
        y_psi, logits = psi(noisy, sigma, labels, want="both")
    else:
        y_psi = psi(noisy, sigma, labels)
    losses = generator_losses(y, phi(noisy, sigma, labels), y_psi, scalars["alpha"], logits, psi.logvar(sigma))
    total = scalings["lsg"] * losses.loss_sid.sum() / scalings["batch_gpu_total"]
    _loss(checks, "loss_sid", losses.loss_sid[losses.keep], given["loss_sid"])
    checks.close("loss_sid_scaled", total, scalars["loss_sid_scaled"], 0.0, LOSS)
    if losses.loss_adv is not None:
        scaled = scalings["lsg_gan"] * losses.loss_adv.sum() / scalings["batch_gpu_total"]
        per_sample = losses.loss_adv[losses.keep] / y[0].numel()
        _loss(checks, "loss_adv", per_sample, given["loss_adv_per_sample"])
        checks.close("loss_adv_scaled", scaled, scalars["loss_adv_scaled"], 0.0, LOSS)
        if scalars["adversarial_on"]:
            total = 0.5 * total + 0.5 * scaled
    checks.close("backpropagated", total, scalars["backpropagated"], 0.0, LOSS)
    total.backward()
    _gradients(checks, theta, given, meta["theta_grad_order"])


def _gradients(checks: Checks, network: Denoiser, given: dict[str, Tensor], order: list[str]) -> None:
    compare_norms(checks, "grad_norms", gradient_norms(network, order), given["grad_norms"], order)
    if "grad_norms_sanitised_and_clipped" in given:
        sanitize_gradients([p.grad for p in network.parameters() if p.grad is not None], CLIP)
        what = "grad_norms_sanitised_and_clipped"
        compare_norms(checks, what, gradient_norms(network, order), given[what], order)
    # Whole gradients were kept after that, where there was such a step.
    parameters = dict(network.named_parameters())
    for key, gradient in given.items():
        if key.startswith("grad/"):
            ours = parameters[key.removeprefix("grad/")].grad
            assert ours is not None
            size = float(gradient.nan_to_num().abs().max()) or 1.0
            checks.close(key, ours / size, gradient / size, GRADIENT, GRADIENT)
