"""Network files: what is read of any kind, and this project's own, safetensors whose header says which architecture they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sida.errors import UserError
from sida.foreign import TensorView

if TYPE_CHECKING:
    from torch import Tensor

    from sida.numerics.networks.precondition import Denoiser

HEADER_KEY = "sida"  # one entry alone: safetensors writes several in an order that changes from process to process


Format = Literal["pickle", "torch", "safetensors"]


@dataclass(frozen=True)
class NetworkFile:
    """Network file read as far as needed: tensors by name, its architecture as far as it says, and its origin."""

    format: Format
    tensors: Mapping[str, Any]  # of a pickle TensorView, of a torch file Tensor, of a safetensors file type and shape
    network: dict[str, Any] | None  # a recipe's network section; None: the file does not say
    about: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each tensor."""
        return {name: _described(tensor) for name, tensor in self.tensors.items()}


def _described(tensor: Any) -> tuple[str, tuple[int, ...]]:
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


def load_network(path: Path, network: Mapping[str, Any], dropout: float = 0.0) -> Denoiser:
    """Return a denoiser of the given architecture with the file's weights, by name and strictly.

    Raises UserError that lists missing and unexpected names, or wrong shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from sida.numerics.networks.build import build_network

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}): fetch it again") from error
    denoiser = build_network(network, dropout)
    own = denoiser.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise UserError(
            f"{path}: does not fit {network['architecture']}: missing {_listed(missing)}; unexpected {_listed(extra)}"
        )
    wrong = [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {name} is {list(tensors[name].shape)}, the recipe's network has {list(own[name].shape)} "
            f"({len(wrong)} such names): correct teacher.network"
        )
    denoiser.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
    return denoiser


def _listed(names: list[str]) -> str:
    listed = ", ".join(names[:5]) or "nothing"
    return listed + (f" and {len(names) - 5} more" if len(names) > 5 else "")
