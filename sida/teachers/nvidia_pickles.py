"""Networks as NVIDIA (EDM, EDM2) and SiDA's authors published them: from a pickle's stand-ins to names, tensors, architecture.

The constructors' arguments that a recipe cannot express must be the published ones; anything else is refused by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sida.foreign import Inert, Refused, TensorView
from sida.foreign.limits import Budget
from sida.printing import one_line
from sida.teachers.choosing import DEFAULT, MOST_NAMES, choose, is_module, optimizers, summary
from sida.teachers.files import NetworkFile

MODULE_DEPTH = 20
NAME_LENGTH = 500
MOST_ARGUMENTS = 100

# Arguments that do not decide what the network computes in eval mode, or only in the authors' own code, or are looked at before.
_IGNORED = {
    *("dropout", "label_dropout", "init", "sigma_min", "sigma_max", "use_fp16", "model_type"),
    *("force_normalization", "use_gan", "sigma_data", "logvar_channels"),
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


def published_network(value: Any, label: str, key: str | None = None) -> NetworkFile:
    """Return a network in a pickle's value, by default the EMA or the only one, without building a tensor.

    ``problem`` names an architecture that this project does not have. Raises Refused when there is no network at all.
    """
    named = value.items() if isinstance(value, dict) else ()
    modules = {name: each for name, each in named if isinstance(name, str) and is_module(each)}
    if not modules:
        names = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else type(value).__name__
        raise Refused(f"{label} holds no network (it holds: {one_line(names, 200)}): give a published network's file")
    budget = Budget(0, MOST_NAMES)
    told = {name: _told(name, each, label, budget) for name, each in modules.items()}
    name = choose(told, value, key, label)
    ema = modules[name]
    tensors, arguments = _tensors(ema, label, Budget(0, MOST_NAMES)), _arguments(ema, label)
    about = {
        "class": ema.name,
        "trunk": next((child.name for name, child in _modules(ema).items() if name in ("model", "unet")), ""),
        "arguments": arguments,
        "program_sha256": hashlib.sha256(ema.source.encode("utf-8", "replace")).hexdigest(),  # it was not executed
    }
    if name != DEFAULT:
        about["key"] = name
    is_edm2 = any(name.startswith("unet.") for name in tensors)
    try:
        network = _edm2(tensors, arguments) if is_edm2 else _edm(ema.name, arguments)
    except _Unknown as error:
        return NetworkFile("pickle", tensors, None, about, str(error), told, optimizers(value))
    return NetworkFile("pickle", tensors, network, about, networks=told, optimizers=optimizers(value))


def _told(name: str, module: Inert, label: str, budget: Budget) -> str:
    """Return what is known of a network; one that cannot be read is no reason to refuse another in the same file."""
    try:
        return summary(name, _tensors(module, label, budget))
    except Refused as error:
        return f"cannot be read ({error})"


class _Unknown(Exception):
    """The architecture cannot be expressed; the text says which argument."""


# -- tensors


def _held(module: Inert, kind: str) -> dict[Any, Any]:
    """Return ``_parameters``, ``_buffers`` or ``_modules`` of a module."""
    held = module.state.get(kind) if isinstance(module.state, dict) else None
    return held if isinstance(held, dict) else {}


def _modules(module: Inert) -> dict[str, Inert]:
    children = _held(module, "_modules").items()
    return {name: child for name, child in children if isinstance(name, str) and isinstance(child, Inert)}


def _tensors(ema: Inert, label: str, budget: Budget) -> dict[str, TensorView]:
    """Return all parameters and buffers by the path of their modules; modules are walked in breadth, each at one place."""
    tensors: dict[str, TensorView] = {}
    level, seen = [("", ema)], {id(ema)}
    for _ in range(MODULE_DEPTH):
        below: list[tuple[str, Inert]] = []
        for prefix, module in level:
            budget.spend(sum(len(_held(module, kind)) + 1 for kind in ("_parameters", "_buffers", "_modules")))
            if len(prefix) > NAME_LENGTH:
                raise Refused(
                    f"{label}: module {one_line(prefix, 40)}... has a name of {len(prefix):,} characters: it is damaged"
                )
            for name, tensor in [*_held(module, "_parameters").items(), *_held(module, "_buffers").items()]:
                if isinstance(tensor, TensorView):
                    tensors[f"{prefix}{name}"] = tensor
                elif tensor is not None:
                    raise Refused(f"{label}: {prefix}{one_line(str(name), 40)} is no tensor: the file is damaged")
            for name, child in _modules(module).items():
                if id(child) in seen:
                    raise Refused(
                        f"{label}: module {prefix}{one_line(name, 40)} occurs twice, as no published network has it"
                    )
                seen.add(id(child))
                below.append((f"{prefix}{name}.", child))
        if not below:
            return tensors
        level = below
    raise Refused(f"{label}: modules are nested more than {MODULE_DEPTH} deep")


# -- architecture


def _arguments(ema: Inert, label: str) -> dict[str, Any]:
    """Return the constructor's arguments, positions named."""
    args, kwargs = ema.state.get("_init_args", ()), ema.state.get("_init_kwargs", {})
    names = ("img_resolution", "img_channels", "label_dim")
    if (
        not isinstance(args, tuple | list)
        or not isinstance(kwargs, dict)
        or len(args) > len(names)
        or len(kwargs) > MOST_ARGUMENTS
    ):
        raise Refused(f"{label}: the constructor's arguments are not those of a published network")
    arguments = dict(zip(names, args, strict=False)) | kwargs
    budget = Budget(0, MOST_NAMES)  # lists may share their items
    return {str(name)[:NAME_LENGTH]: _plain(argument, budget) for name, argument in arguments.items()}


def _plain(value: Any, budget: Budget, depth: int = 3) -> Any:
    """Return small values as JSON has them; everything else by its type's name."""
    budget.spend()
    if isinstance(value, np.generic):  # before float, which numpy's float64 is too
        return _plain(value.item(), budget)
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 1000):
        return value
    if isinstance(value, list | tuple) and len(value) <= 64 and depth:
        return [_plain(item, budget, depth - 1) for item in value]
    if isinstance(value, dict) and len(value) <= 64 and depth:
        return {str(key)[:NAME_LENGTH]: _plain(item, budget, depth - 1) for key, item in value.items()}
    return f"({type(value).__name__})"


def _edm(class_name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if "EDMPrecond" not in class_name or arguments.get("sigma_data", 0.5) != 0.5:
        raise _Unknown(f"its preconditioner is {one_line(class_name, 60)}, not EDM's with sigma_data 0.5")
    model_type = str(arguments.get("model_type", "DhariwalUNet"))
    trunk = model_type.removesuffix("_EncoderDecoder")
    if trunk == "DhariwalUNet":
        return _network("adm", arguments, _ADM, {}, {"channel_mult_emb": 4})
    if trunk != "SongUNet":
        raise _Unknown(f"its model_type is {one_line(model_type, 60)}")
    for architecture, fixed in _SONG_VARIANTS.items():
        if all(arguments.get(name, _SONG_VARIANTS["ddpmpp"][name]) == value for name, value in fixed.items()):
            return _network(architecture, arguments, _SONG, {**_SONG_FIXED, **fixed}, {"channel_mult_emb": 4})
    raise _Unknown("it is a SongUNet, but neither DDPM++ nor NCSN++ as published")


def _edm2(tensors: Mapping[str, TensorView], arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments.get("sigma_data", 0.5) != 0.5:
        raise _Unknown("its sigma_data is not 0.5")
    network = _network("edm2", arguments, _EDM2, _EDM2_FIXED, {"channel_mult_emb": None, "channels_per_head": 64})
    if head := tensors.get("logvar_linear.weight"):
        network["logvar_channels"] = head.shape[-1]
    return network


def _network(
    architecture: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
    optional: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a recipe's network section from the arguments; ``optional`` ones appear if they differ from the published."""
    arguments = {name: value for name, value in given.items() if name not in _IGNORED}
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
    others = {name: arguments.pop(name, default) for name, default in optional.items()}
    network |= {name: value for name, value in others.items() if value != optional[name]}
    for name, value in arguments.items():
        if name not in fixed:
            raise _Unknown(f"its constructor's argument {one_line(name, 60)} is not known here")
        if value != fixed[name]:
            raise _Unknown(
                f"its constructor's argument {name} is {one_line(repr(value), 60)}, here it is always {fixed[name]!r}"
            )
    return network
