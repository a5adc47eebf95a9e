"""Network files: what is read of any kind, and this project's own, safetensors whose header says which architecture they hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sida.errors import UserError
from sida.foreign import TensorView
from sida.foreign.boundary import reading, reason
from sida.printing import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from sida.numerics.networks.precondition import Denoiser

HEADER_KEY = "sida"  # one entry alone: safetensors writes several in an order that changes from process to process


Format = Literal["pickle", "torch", "old torch", "safetensors"]


@dataclass(frozen=True)
class NetworkFile:
    """Network file read as far as needed: tensors by name, its architecture as far as it says, and its origin."""

    format: Format
    tensors: Mapping[str, Any]  # of a pickle TensorView, of a torch file Tensor, of a safetensors file type and shape
    network: dict[str, Any] | None  # a recipe's network section; None: the file does not say
    about: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    networks: Mapping[str, str] = field(
        default_factory=dict
    )  # all that the file holds by name, and what is known of them
    optimizers: tuple[str, ...] = ()  # whose states it holds, which are not read

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each tensor."""
        return {name: described(tensor) for name, tensor in self.tensors.items()}


def described(tensor: Any) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of a tensor as a network file has it."""
    if isinstance(tensor, TensorView):
        return tensor.dtype, tensor.shape
    if isinstance(tensor, tuple):
        return tensor
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def save_network(path: Path, tensors: Mapping[str, Tensor], network: Mapping[str, Any], **about: Any) -> None:
    """Write tensors and architecture. Bytes depend on the content alone, so that equal weights have equal digests."""
    from safetensors.torch import save_file

    header = {HEADER_KEY: json.dumps({"network": dict(network), **about}, sort_keys=True)}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata=header)


def generator_header(sigma_init: float, steps: int) -> dict[str, Any]:
    """Return how a generator is called, for its file's header; one step is not said, as in files of before there were others."""
    return {"sigma_init": sigma_init} | ({} if steps == 1 else {"steps": steps})


def load_network(path: Path, network: Mapping[str, Any], dropout: float = 0.0, label: str = "") -> Denoiser:
    """Return a denoiser of the given architecture with the file's weights, by name and strictly.

    Raises UserError that lists missing and unexpected names, or wrong shapes; ``label`` names the file in it.
    """
    from safetensors.torch import load_file

    from sida.numerics.networks.build import build_network

    label = label or str(path)
    with reading(label, path):
        tensors = load_file(path)
        check_fits(network, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, label)
    denoiser = build_network(network, dropout)
    own = denoiser.state_dict()
    denoiser.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
    return denoiser


def network_on_meta(network: Mapping[str, Any], label: str, dropout: float = 0.0) -> Denoiser:
    """Return a network without memory for its numbers. Raises UserError where its fields contradict each other.

    One image goes through it: levels that do not fit the resolution show only then.
    """
    import torch

    from sida.numerics.networks.build import build_network

    try:
        with torch.device("meta"), torch.no_grad():
            denoiser = build_network(network, dropout).eval()
            shape = (1, denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution)
            denoiser(torch.empty(shape), torch.ones(1), torch.empty(1, denoiser.label_dim))
    except Exception as error:  # torch raises whatever such fields make it raise
        raise UserError(f"{label}: its network cannot be built ({reason(error)}): correct teacher.network") from error
    return denoiser.train()


def check_fits(network: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], label: str) -> None:
    """Raise UserError unless a file's names and shapes are the network's, which takes no memory here."""
    blocks = len(network["channel_mult"]) * (
        2 * network["num_blocks"] + 1
    )  # of encoder and decoder, each of several tensors
    if len(shapes) < blocks:
        raise UserError(
            f"{label}: does not fit {network['architecture']}: it holds {len(shapes):,} tensors, and the network has {blocks:,} "
            f"blocks of several: correct teacher.network, or fetch it again"
        )
    own = network_on_meta(network, label).state_dict()
    missing, extra = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    if missing or extra:
        raise UserError(
            f"{label}: does not fit {network['architecture']}: missing {_listed(missing)}; unexpected {_listed(extra)}"
        )
    wrong = [name for name in own if own[name].shape != shapes[name]]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{label}: {name} is {list(shapes[name])}, the recipe's network has {list(own[name].shape)} "
            f"({len(wrong)} such names): correct teacher.network"
        )


def wrapper_of(names: Collection[str], architecture: str) -> str:
    """Return what stands before every name because a wrapper's state_dict was saved (DDP, Lightning, torch.compile); else ""."""
    mark = "unet.enc." if architecture == "edm2" else "model.enc."
    prefix = next((name[: name.find(mark)] for name in names if mark in name), "")
    return prefix if all(name.startswith(prefix) for name in names) else ""


def _listed(names: list[str]) -> str:
    listed = ", ".join(one_line(name, 40) for name in names[:2]) or "nothing"
    return listed + (f" and {len(names) - 2:,} more" if len(names) > 2 else "")
