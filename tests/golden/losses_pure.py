"""losses_pure.safetensors: the loss functions on given tensors, NaN rules, the noise schedule, the preconditioning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sida.numerics.losses import (
    GeneratorLosses,
    fake_score_losses,
    generator_losses,
    group_bce,
    loss_weight,
)
from sida.numerics.networks.precondition import edm_coefficients
from sida.numerics.schedules import fake_score_sigma, generator_sigma
from tests.golden.compare import Case, Checks, Folder, Golden

PATTERNS = ["losses_pure.safetensors"]
TOLERANCE, EXACT = 1e-6, 1e-12
_NOISE = {"edm": (-1.2, 1.2), "edm2": (-0.4, 1.0)}  # P_mean, P_std of the two families; the file does not hold them


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has(PATTERNS[0]):
        return
    golden = folder.tensors(PATTERNS[0])
    for prefix in sorted({key.rpartition("/")[0] for key in golden.names("A/")}):
        yield Case(f"losses_pure/{prefix}", lambda checks, p=prefix: _fake_score(checks, golden, p))
    for prefix in sorted({key.rpartition("/")[0] for key in golden.names("B/")}):
        yield Case(f"losses_pure/{prefix}", lambda checks, p=prefix: _generator(checks, golden, p))
    for key in golden.names("schedule/tmax"):
        yield Case(f"losses_pure/{key}", lambda checks, k=key: _schedule(checks, golden, k))
    if "precond/sigma" in golden:
        yield Case("losses_pure/precond", lambda checks: _precondition(checks, golden))


class _Inputs:
    """The tensors of one case, logvar only where the family has it."""

    def __init__(self, golden: Golden, family: str, case: str) -> None:
        tensors = golden.under(f"in/{case}/")
        self.y, self.y_phi, self.y_psi = tensors["y"], tensors["y_phi"], tensors["y_psi"]
        self.l_fake, self.l_real = tensors["l_fake"], tensors["l_real"]
        self.logvar = tensors.get("logvar") if family.endswith("_logvar") else None


def _relative(checks: Checks, what: str, ours: Tensor, golden: Tensor) -> None:
    checks.close(what, ours, golden, 0.0, TOLERANCE)


def _fake_score(checks: Checks, golden: Golden, prefix: str) -> None:
    _, family, case = prefix.split("/")
    given = _Inputs(golden, family, case)
    P_mean, P_std = _NOISE[family.partition("_")[0]]

    sigma = fake_score_sigma(golden[f"{prefix}/n1"], P_mean, P_std)
    losses = fake_score_losses(given.y, given.y_psi, sigma, given.l_fake, given.l_real, given.logvar)
    assert losses.loss_D is not None
    _relative(checks, "loss_psi", losses.loss_psi[losses.keep], golden[f"{prefix}/loss_psi"])
    _relative(checks, "loss_D", losses.loss_D[losses.keep], golden[f"{prefix}/loss_D"])
    _dropped_are_zero(checks, losses.keep, losses.loss_psi, losses.loss_D)

    sigma = fake_score_sigma(golden[f"{prefix}/sid_n1"], P_mean, P_std)
    losses = fake_score_losses(given.y, given.y_psi, sigma, logvar=given.logvar)
    _relative(checks, "sid_loss_psi", losses.loss_psi[losses.keep], golden[f"{prefix}/sid_loss_psi"])


def _generator(checks: Checks, golden: Golden, prefix: str) -> None:
    _, family, case, alpha = prefix.split("/")
    given = _Inputs(golden, family, case)
    a = float(alpha.removeprefix("alpha"))

    losses = generator_losses(given.y, given.y_phi, given.y_psi, a, given.l_fake, given.logvar)
    assert losses.loss_adv is not None
    _dropped_are_zero(checks, losses.keep, losses.loss_sid, losses.loss_adv)
    elements = given.y[0].numel()
    adversarial = golden[f"{prefix}/loss_adv_times_CHW"]
    if family == "edm" and not losses.keep.all():
        _edm_rule(checks, golden, prefix, given, losses)
    else:
        _relative(checks, "loss_sid", losses.loss_sid[losses.keep], golden[f"{prefix}/loss_sid"])
        _relative(checks, "loss_adv", losses.loss_adv[losses.keep], adversarial)
        per_sample = golden[f"{prefix}/loss_adv_per_sample"]
        _relative(checks, "loss_adv per sample", losses.loss_adv[losses.keep] / elements, per_sample)

    losses = generator_losses(given.y, given.y_phi, given.y_psi, a, logvar=given.logvar)
    _relative(checks, "loss_sid of SiD", losses.loss_sid[losses.keep], golden[f"{prefix}/sid_only_loss_sid"])


def _edm_rule(checks: Checks, golden: Golden, prefix: str, given: _Inputs, losses: GeneratorLosses) -> None:
    """The EDM code leaves a dropped sample's logits in the BCE and does not test logits; we follow the EDM2 code.

    Its numbers follow from ours by the ratio of the two BCE means; with a NaN logit its loss_adv is NaN throughout.
    """
    checks.remark("EDM's NaN rule, from which ours departs")
    assert losses.loss_adv is not None
    clamped = given.l_fake.clamp(-10, 10)
    everyone = torch.ones_like(losses.keep)
    ratio = group_bce(clamped, True, everyone, None) / group_bce(clamped.nan_to_num(), True, losses.keep, None)
    adversarial = (losses.loss_adv * ratio)[losses.keep]
    golden_sid, golden_adv = golden[f"{prefix}/loss_sid"], golden[f"{prefix}/loss_adv_times_CHW"]
    if len(golden_sid) == len(losses.keep):  # nothing was dropped there
        golden_sid, golden_adv = golden_sid[losses.keep], golden_adv[losses.keep]
    _relative(checks, "loss_sid", losses.loss_sid[losses.keep], golden_sid)
    _relative(checks, "loss_adv", adversarial, golden_adv)
    per_sample = golden[f"{prefix}/loss_adv_per_sample"] * given.y[0].numel()
    _relative(checks, "loss_adv per sample", per_sample, golden[f"{prefix}/loss_adv_times_CHW"])


def _dropped_are_zero(checks: Checks, keep: Tensor, *losses: Tensor) -> None:
    for loss in losses:
        checks.true("dropped samples are 0", not loss[~keep].any())


def _schedule(checks: Checks, golden: Golden, key: str) -> None:
    tmax, _, precision = key.removeprefix("schedule/tmax").partition("_")
    sigma = generator_sigma(golden["schedule/u"].to(golden[key].dtype), float(tmax))
    checks.close("sigma", sigma, golden[key], 0.0, EXACT if precision == "f64" else TOLERANCE)


def _precondition(checks: Checks, golden: Golden) -> None:
    sigma = golden["precond/sigma"]
    names = ("c_skip", "c_out", "c_in", "c_noise")
    for name, ours in zip(names, edm_coefficients(sigma), strict=True):
        checks.close(name, ours, golden[f"precond/{name}"], 1e-7, TOLERANCE)  # c_noise crosses 0
    _relative(checks, "loss_weight", loss_weight(sigma), golden["precond/loss_weight"])
