"""From the authors' constructor arguments, as the json files give them, to our networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sida.numerics.networks.dhariwal import DhariwalUNet
from sida.numerics.networks.edm2 import EDM2Precond, UNet
from sida.numerics.networks.layers import Dropout
from sida.numerics.networks.precondition import Denoiser, EDMPrecond
from sida.numerics.networks.song import SongUNet
from sida.numerics.schedules import SIGMA_DATA

# Not arguments of the networks: bookkeeping of the golden files, and switches of the authors' classes.
_NOT_ARGUMENTS = {"precond", "grad_norm_order", "params", "use_gan", "force_normalization", "precond_class"}


def build(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> Denoiser:
    """The network with these weights, in eval mode. EDM or EDM2 follows from the published names in ``state``."""
    fields = {key: value for key, value in arguments.items() if key not in _NOT_ARGUMENTS}
    resolution, channels = fields.pop("img_resolution"), fields.pop("img_channels")
    half = fields.pop("use_fp16", False)
    assert fields.pop("sigma_data", SIGMA_DATA) == SIGMA_DATA
    edm2 = any(name.startswith("unet.") for name in state)
    network = _edm2(fields, state, resolution, channels) if edm2 else _edm(fields, resolution, channels)
    if half:
        network.working_dtype = torch.float16
    network.load_state_dict(dict(state))
    return network.eval()


def _edm(fields: dict[str, Any], resolution: int, channels: int) -> Denoiser:
    model_type = fields.pop("model_type")
    trunk_class = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[model_type.removesuffix("_EncoderDecoder")]
    return EDMPrecond(trunk_class(resolution, channels, **fields))


def _edm2(fields: dict[str, Any], state: Mapping[str, Tensor], resolution: int, channels: int) -> Denoiser:
    fields.pop("logvar_channels", None)
    head = state.get("logvar_linear.weight")  # a network without that head may share its arguments with one that has it
    return EDM2Precond(UNet(resolution, channels, **fields), None if head is None else head.shape[1])


def without_dropout(network: torch.nn.Module) -> None:
    """Set every dropout probability to 0."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.p = 0.0


def gradient_norms(network: torch.nn.Module, order: list[str]) -> Tensor:
    """float64 norms of the gradients by name; NaN where a parameter has none."""
    parameters = dict(network.named_parameters())
    missing = float("nan")
    return torch.tensor(
        [missing if (g := parameters[name].grad) is None else float(g.double().norm()) for name in order],
        dtype=torch.float64,
    )
