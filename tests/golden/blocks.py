"""blocks.safetensors, blocks.json: single blocks, convolutions, embeddings and magnitude-preserving operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sida.numerics.networks import layers, magnitude
from tests.golden.compare import Case, Checks, Folder, Golden

PATTERNS = ["blocks.json", "blocks.safetensors"]
TOLERANCE = 1e-5
_CLASSES: dict[str, Callable[..., torch.nn.Module]] = {
    "UNetBlock": layers.UNetBlock,
    "Block": magnitude.Block,
    "Conv2d": layers.Conv2d,
}
_SWITCHES = ("force_normalization", "use_gan")  # of the authors' classes, not of the network


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has("blocks.safetensors"):
        return
    golden, descriptions = folder.tensors("blocks.safetensors"), folder.json("blocks.json")
    for tag, description in descriptions.items():
        yield Case(f"blocks/{tag}", lambda checks, t=tag, d=description: _block(checks, golden, t, d))
    for key in golden.names():
        if key in _EMBEDDINGS:
            yield Case(f"blocks/{key}", lambda checks, k=key: _embedding(checks, golden, k))
    for key in golden.names("ops/"):
        if key not in ("ops/x", "ops/y", "ops/z"):
            yield Case(f"blocks/{key}", lambda checks, k=key: _operation(checks, golden, k))
    for layer in ("mpconv", "mplinear"):
        for key in golden.names(f"{layer}/y"):
            yield Case(f"blocks/{key}", lambda checks, k=key: _mp_layer(checks, golden, k))


def _compare(checks: Checks, what: str, ours: Tensor, golden: Tensor) -> None:
    checks.close(what, ours, golden, TOLERANCE, TOLERANCE)


@torch.no_grad()
def _block(checks: Checks, golden: Golden, tag: str, description: dict[str, Any]) -> None:
    keywords = {key: value for key, value in description["kwargs"].items() if key not in _SWITCHES}
    if (mode := keywords.pop("resample_mode", None)) is not None:
        keywords[mode] = True
    block = _CLASSES[description["cls"]](*description["args"], **keywords).eval()
    block.load_state_dict(golden.under(f"{tag}/state/"))
    emb = golden.get(f"{tag}/emb")
    inputs = [golden[f"{tag}/x"]] + ([] if emb is None else [emb])
    _compare(checks, "y", block(*inputs), golden[f"{tag}/y"])


def _positional(golden: Golden, key: str, endpoint: bool) -> Tensor:
    return layers.PositionalEmbedding(golden[key].shape[1], endpoint=endpoint)(golden["noise"])


def _fourier(golden: Golden) -> Tensor:
    embedding = layers.FourierEmbedding(2 * len(golden["fourier_freqs"]))
    embedding.load_state_dict({"freqs": golden["fourier_freqs"]})
    return embedding(golden["noise"])


def _mp_fourier(golden: Golden) -> Tensor:
    embedding = magnitude.MPFourier(len(golden["mpfourier_freqs"]))
    embedding.load_state_dict({"freqs": golden["mpfourier_freqs"], "phases": golden["mpfourier_phases"]})
    return embedding(golden["noise"])


_EMBEDDINGS: dict[str, Callable[[Golden], Tensor]] = {
    "positional_ddpm": lambda golden: _positional(golden, "positional_ddpm", True),
    "positional_adm": lambda golden: _positional(golden, "positional_adm", False),
    "fourier": _fourier,
    "mpfourier": _mp_fourier,
}


def _embedding(checks: Checks, golden: Golden, key: str) -> None:
    _compare(checks, key, _EMBEDDINGS[key](golden), golden[key])


def _share(digits: str) -> float:
    """ "03" -> 0.3, "05" -> 0.5, "1" -> 1: how the names write a number."""
    return float(f"{digits[0]}.{digits[1:] or 0}")


def _operation(checks: Checks, golden: Golden, key: str) -> None:
    name, _, suffix = key.removeprefix("ops/").rpartition("_")
    x, y, z = (golden[f"ops/{letter}"] for letter in "xyz")
    if key.endswith("/mp_silu"):
        ours = magnitude.mp_silu(x)
    elif name == "normalize":
        ours = magnitude.normalize(x, dim=None if suffix == "default" else int(suffix.removeprefix("dim")))
    elif name == "mp_sum":
        ours = magnitude.mp_sum(x, y, _share(suffix))
    elif name == "mp_cat":
        ours = magnitude.mp_cat(x, z, _share(suffix))
    elif (name or suffix) in ("up", "down"):
        taps = [int(digit) for digit in suffix] if name else [1, 1]
        ours = magnitude.resample(x, name or suffix, taps)
    else:
        raise ValueError(f"no operation called {key}")
    _compare(checks, key, ours, golden[key])


@torch.no_grad()
def _mp_layer(checks: Checks, golden: Golden, key: str) -> None:
    layer, _, result = key.partition("/")
    weight = golden[f"{layer}/weight"]
    module = magnitude.MPConv(weight.shape[1], weight.shape[0], tuple(weight.shape[2:])).eval()
    module.load_state_dict({"weight": weight})
    x = golden.get(f"{layer}/x")
    gain = _share(result.removeprefix("y_gain")) if result.startswith("y_gain") else 1.0
    _compare(checks, key, module(golden["ops/x"] if x is None else x, gain=gain), golden[key])
