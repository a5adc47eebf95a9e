"""Networks as NVIDIA (EDM, EDM2) and SiDA's authors published them: from a pickle's stand-ins to names, tensors, architecture.

The constructors' arguments that a recipe cannot express must be the published ones; anything else is refused by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sida.foreign import Inert, Refused, TensorView

MODULE_DEPTH = 20

# Arguments that do not decide what the network computes in eval mode, or only in the authors' own code.
_IGNORED = {
    *("dropout", "label_dropout", "init", "sigma_min", "sigma_max", "use_fp16", "model_type"),
    *("force_normalization", "use_gan"),
}
_SONG = {  # the published defaults, then what else must be as published
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
}
_SONG_FIXED = {"decoder_type": "standard"}
_SONG_VARIANTS = {
    "ddpmpp": {
        "embedding_type": "positional",
        "encoder_type": "standard",
        "channel_mult_noise": 1,
        "resample_filter": [1, 1],
    },
    "ncsnpp": {
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    },
}
_ADM = {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8]}
_EDM2 = {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [16, 8]}
_EDM2_FIXED = {
    "channel_mult_noise": None,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "resample_filter": [1, 1],
}


@dataclass(frozen=True)
class PublishedNetwork:
    """Contents of a pickle's ``ema``: tensors by published name, a recipe's network section, and its class and arguments."""

    tensors: dict[str, TensorView]
    class_name: str
    arguments: dict[str, Any]
    source_sha256: str  # of the program text in the file, which was not executed
    trunk: str
    problem: str = ""  # why there is no ``network``
    network: dict[str, Any] = field(default_factory=dict)


def published_network(value: Any, what: str) -> PublishedNetwork:
    """Return the network in a pickle's value, without building a tensor.

    ``problem`` names an architecture that this project does not have. Raises Refused when there is no network at all.
    """
    ema = value.get("ema") if isinstance(value, dict) else None
    if not isinstance(ema, Inert) or not isinstance(ema.state, dict):
        held = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else type(value).__name__
        raise Refused(f"{what} holds no network under 'ema' (it holds: {held[:200]}): give a published network's file")
    tensors = _tensors(ema, what)
    arguments = _arguments(ema, what)
    trunk = next((child for name, child in _modules(ema).items() if name in ("model", "unet")), None)
    found = PublishedNetwork(
        tensors=tensors,
        class_name=ema.name,
        arguments=arguments,
        source_sha256=hashlib.sha256(ema.source.encode("utf-8", "replace")).hexdigest(),
        trunk=trunk.name if trunk else "",
    )
    try:
        network = _edm2(found) if any(name.startswith("unet.") for name in tensors) else _edm(found)
    except _Unknown as error:
        return PublishedNetwork(**{**vars(found), "problem": str(error)})
    return PublishedNetwork(**{**vars(found), "network": network})


class _Unknown(Exception):
    """The architecture cannot be expressed; the text says which argument."""


# -- tensors


def _modules(module: Inert) -> dict[str, Inert]:
    children = module.state.get("_modules") if isinstance(module.state, dict) else None
    if not isinstance(children, dict):
        return {}
    return {name: child for name, child in children.items() if isinstance(name, str) and isinstance(child, Inert)}


def _tensors(ema: Inert, what: str) -> dict[str, TensorView]:
    """Return all parameters and buffers by the path of their modules; modules are walked in breadth, each at one place."""
    tensors: dict[str, TensorView] = {}
    level, seen = [("", ema)], {id(ema)}
    for _ in range(MODULE_DEPTH):
        below: list[tuple[str, Inert]] = []
        for prefix, module in level:
            for kind in ("_parameters", "_buffers"):
                own = module.state.get(kind) if isinstance(module.state, dict) else None
                for name, tensor in (own if isinstance(own, dict) else {}).items():
                    if isinstance(tensor, TensorView):
                        tensors[f"{prefix}{name}"] = tensor
                    elif tensor is not None:
                        raise Refused(f"{what}: {prefix}{name} is no tensor: the file is damaged")
            for name, child in _modules(module).items():
                if id(child) in seen:
                    raise Refused(f"{what}: module {prefix}{name} occurs twice, as no published network has it")
                seen.add(id(child))
                below.append((f"{prefix}{name}.", child))
        if not below:
            return tensors
        level = below
    raise Refused(f"{what}: modules are nested more than {MODULE_DEPTH} deep")


# -- architecture


def _arguments(ema: Inert, what: str) -> dict[str, Any]:
    """Return the constructor's arguments, positions named."""
    args, kwargs = ema.state.get("_init_args", ()), ema.state.get("_init_kwargs", {})
    names = ("img_resolution", "img_channels", "label_dim")
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict) or len(args) > len(names):
        raise Refused(f"{what}: the constructor's arguments are not those of a published network")
    arguments = dict(zip(names, args, strict=False)) | kwargs
    return {str(name): _plain(argument) for name, argument in arguments.items()}


def _plain(value: Any, depth: int = 3) -> Any:
    """Return small values as JSON has them; everything else by its type's name."""
    if isinstance(value, np.generic):  # before float, which numpy's float64 is too
        return _plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and len(value) <= 64 and depth:
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, dict) and len(value) <= 64 and depth:
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    return f"({type(value).__name__})"


def _edm(found: PublishedNetwork) -> dict[str, Any]:
    model_type = str(found.arguments.get("model_type", "DhariwalUNet"))
    if "EDMPrecond" not in found.class_name or found.arguments.get("sigma_data", 0.5) != 0.5:
        raise _Unknown(f"its preconditioner is {found.class_name}, not EDM's with sigma_data 0.5")
    trunk = model_type.removesuffix("_EncoderDecoder")
    if trunk == "DhariwalUNet":
        return _network(found, "adm", _ADM, {}, {"channel_mult_emb": 4})
    if trunk != "SongUNet":
        raise _Unknown(f"its model_type is {model_type}")
    for architecture, fixed in _SONG_VARIANTS.items():
        given = {name: found.arguments.get(name, _SONG_VARIANTS["ddpmpp"][name]) for name in fixed}
        if given == fixed:
            return _network(found, architecture, _SONG, {**_SONG_FIXED, **fixed}, {"channel_mult_emb": 4})
    raise _Unknown("it is a SongUNet, but neither DDPM++ nor NCSN++ as published")


def _edm2(found: PublishedNetwork) -> dict[str, Any]:
    if found.arguments.get("sigma_data", 0.5) != 0.5:
        raise _Unknown("its sigma_data is not 0.5")
    head = found.tensors.get("logvar_linear.weight")
    optional = {"channel_mult_emb": None, "channels_per_head": 64}
    network = _network(found, "edm2", _EDM2, {**_EDM2_FIXED}, optional)
    if head is not None:
        network["logvar_channels"] = head.shape[-1]
    return network


def _network(
    found: PublishedNetwork,
    architecture: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
    optional: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a recipe's network section from the arguments; ``optional`` ones appear if they differ from the published."""
    arguments = {name: value for name, value in found.arguments.items() if name not in _IGNORED}
    for known in ("sigma_data", "logvar_channels"):
        arguments.pop(known, None)
    try:
        resolution, channels = arguments.pop("img_resolution"), arguments.pop("img_channels")
    except KeyError as error:
        raise _Unknown(f"its constructor's argument {error} is missing") from error
    network = {
        "architecture": architecture,
        "resolution": resolution,
        "channels": channels,
        "label_dim": arguments.pop("label_dim", 0) or 0,
        "augment_dim": arguments.pop("augment_dim", 0) or 0,
        **{name: arguments.pop(name, default) for name, default in defaults.items()},
    }
    for name, value in optional.items():
        if (given := arguments.pop(name, value)) != value:
            network[name] = given
    for name, value in arguments.items():
        if name not in fixed:
            raise _Unknown(f"its constructor's argument {name} is not known here")
        if value != fixed[name]:
            raise _Unknown(f"its constructor's argument {name} is {value!r}, here it is always {fixed[name]!r}")
    return network
