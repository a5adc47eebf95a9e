"""samplers_*.safetensors and .json: Heun samplers, one-step generation, seeded noise, latents, quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sida.numerics.latents import decoder_input, draw_latent, latent_scale_bias
from sida.numerics.quantize import from_uint8, to_uint8, unit_to_uint8
from sida.numerics.samplers import ImageDenoiser, heun, last_step, seeded_latents
from tests.golden.compare import Case, Checks, Folder, Golden
from tests.golden.networks import load

PATTERNS = ["samplers_*.json", "samplers_*.safetensors"]
IMAGES = 1e-4


def cases(folder: Folder) -> Iterator[Case]:
    for name in folder.names("samplers_*.safetensors"):
        tag = name.removesuffix(".safetensors")
        golden, descriptions = folder.tensors(name), folder.json(f"{tag}.json")
        for case, description in descriptions.items():
            run = _edm2 if "net" in description else _edm
            yield Case(
                f"{tag}/{case}", lambda checks, r=run, g=golden, c=case, d=description: r(checks, folder, g, c, d)
            )
        for group in golden.groups():
            if group in descriptions:
                continue
            other = _other(folder, golden, group, descriptions)
            if other is not None:
                yield Case(f"{tag}/{group}", other)


def _other(folder: Folder, golden: Golden, group: str, descriptions: dict[str, Any]) -> Callable[[Checks], None] | None:
    """The computation of a group that the json does not describe; None if the name means nothing to us."""
    if group.startswith("onestep_"):
        return lambda checks: _one_step(checks, folder, golden, group, descriptions)
    simple = {"seeded": _seeded, "latents": _latents, "quantise": quantise}
    return None if group not in simple else lambda checks: simple[group](checks, golden)


def _typed(keywords: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the authors' samplers as ours: numbers may be written as strings."""
    typed: dict[str, Any] = {}
    for key, value in keywords.items():
        if key == "dtype":
            typed[key] = getattr(torch, str(value).removeprefix("torch."))
        elif key == "num_steps":
            typed["steps"] = int(value)
        else:
            typed[key] = float(value)
    return typed


class Counted:
    """A denoiser that remembers the noise level of each evaluation, as float32 or float64 scalars handed to the network."""

    def __init__(self, denoiser: ImageDenoiser) -> None:
        self.denoiser = denoiser
        self.sigmas: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        self.sigmas.append(torch.as_tensor(sigma))
        return self.denoiser(x, sigma, labels)

    @property
    def evaluations(self) -> int:
        return len(self.sigmas)


class _RecordedNoise:
    """Hands out the draws of the steps that ask, in order, and counts them."""

    def __init__(self, draws: Tensor | None, like: Tensor) -> None:
        self.draws, self.like, self.used = draws, like, 0

    def __call__(self, step: int) -> Tensor:
        noise = torch.zeros_like(self.like) if self.draws is None else self.draws[self.used]
        self.used += 1
        return noise


@torch.no_grad()
def _edm(checks: Checks, folder: Folder, golden: Golden, case: str, description: dict[str, Any]) -> None:
    network = Counted(load(folder, description["network"]))
    latents = golden[f"{case}/latents"]
    draws = golden.get(f"{case}/churn_noise")  # of every step, also where it has no effect
    labels = golden.get(f"{case}/labels")
    keywords = {"steps": 18} | _typed(description["kwargs"])
    checks.true("draws", keywords["steps"] == description["randn_like_calls"])
    out = heun(network, latents, labels, noise=None if draws is None else draws.__getitem__, **keywords)
    checks.close("out", out, golden[f"{case}/out"], IMAGES)
    checks.true("float64", out.dtype == golden[f"{case}/out"].dtype)
    checks.true("evaluations", network.evaluations == description["evaluations"])
    if f"{case}/t_steps_called" in golden:
        checks.close("sigmas", torch.stack(network.sigmas), golden[f"{case}/t_steps_called"], 0.0, 1e-12)


@torch.no_grad()
def _edm2(checks: Checks, folder: Folder, golden: Golden, case: str, description: dict[str, Any]) -> None:
    network, guide = Counted(load(folder, description["net"])), Counted(load(folder, description["gnet"]))
    latents = golden[f"{case}/latents"]
    noise = _RecordedNoise(golden.get(f"{case}/churn_noise"), latents)
    labels = golden.get(f"{case}/labels")
    keywords = {"steps": 32, "dtype": torch.float32} | _typed(description["kwargs"])
    out = heun(network, latents, labels, guide=guide, noise=noise, **keywords)
    checks.close("out", out, golden[f"{case}/out"], IMAGES)
    checks.true("dtype", out.dtype == golden[f"{case}/out"].dtype)
    checks.true("evaluations", [network.evaluations, guide.evaluations] == description["evaluations"])
    checks.true("draws", noise.used == description["randn_like_calls"])


@torch.no_grad()
def _one_step(checks: Checks, folder: Folder, golden: Golden, group: str, descriptions: dict[str, Any]) -> None:
    name = f"net_{group.removeprefix('onestep_')}"
    if not folder.has(f"{name}.safetensors"):  # "onestep_edm2": the network of that file's samplers
        name = next(iter(descriptions.values()))["net"]
    out = last_step(load(folder, name), lambda step: golden[f"{group}/z"], golden.get(f"{group}/labels"), [2.5])
    checks.close("out", out, golden[f"{group}/out"], IMAGES)
    if f"{group}/uint8" in golden:
        checks.exact("uint8", to_uint8(out), golden[f"{group}/uint8"])


def _seeded(checks: Checks, golden: Golden) -> None:
    (key,) = golden.names("seeded/latents_seeds_")
    (classes,) = golden.names("seeded/class_of_")
    seeds = [int(seed) for seed in key.removeprefix("seeded/latents_seeds_").split("_")]
    latents, labels = seeded_latents(seeds, golden[key].shape[1:], int(classes.rpartition("_")[2]))
    checks.close("latents", latents, golden[key], 1e-6)
    checks.exact("classes", labels, golden[classes])


def _latents(checks: Checks, golden: Golden) -> None:
    scale, bias = (column.flatten() for column in latent_scale_bias(golden["latents/eps"]))
    checks.close("scale", scale, golden["latents/scale"], 0.0, 1e-6)
    checks.close("bias", bias, golden["latents/bias"], 0.0, 1e-6)
    final = draw_latent(golden["latents/raw_mean_std"], golden["latents/eps"])
    checks.close("final", final, golden["latents/final"], IMAGES)
    checks.close("decoder_input", decoder_input(golden["latents/final"]), golden["latents/decoder_input"], IMAGES)
    checks.exact("pixels", unit_to_uint8(golden["latents/vae_out"]), golden["latents/pixels_uint8"])


def quantise(checks: Checks, golden: Golden) -> None:
    """EDM's rule on given floats, and 8 bits there and back."""
    checks.exact("uint8", to_uint8(golden["quantise/x"]), golden["quantise/uint8"])
    if "quantise/x64" in golden:
        checks.exact("uint8 from float64", to_uint8(golden["quantise/x64"]), golden["quantise/uint8_from_f64"])
    if "quantise/roundtrip_of_0_255" in golden:
        back = to_uint8(from_uint8(torch.arange(256, dtype=torch.uint8)))
        checks.exact("round trip", back, golden["quantise/roundtrip_of_0_255"])
