"""Kinds of network files, told by their first bytes, and reading each kind without executing it.

Pickles of NVIDIA and SiDA's authors and torch's old files (read by ``sida.foreign``), torch files (``weights_only``), safetensors
(with this project's header, or names that fit the recipe).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.errors import UserError
from sida.foreign import Refused, TensorView
from sida.foreign.archives import opened_zip
from sida.foreign.boundary import reading, reason, unreadable
from sida.foreign.json_values import parse_json
from sida.foreign.limits import Budget
from sida.foreign.pickles import read_old_torch, read_pickle
from sida.foreign.torch_streams import INDEX_ELEMENTS, check_index
from sida.teachers.choosing import choose, optimizers, state_dicts, summary
from sida.teachers.files import HEADER_KEY, Format, NetworkFile
from sida.teachers.nvidia_pickles import published_network

if TYPE_CHECKING:
    from torch import Tensor

TORCH_PICKLE_BYTES = 16 << 20  # of the index inside a torch file
OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number of torch's first pickle
HEADER_BYTES = 16 << 20
USUAL = ("", "ema", "model", "state_dict", "net")  # names of a file's only network that tell nothing


def format_of(path: Path, label: str) -> Format:
    """Return the kind of file. Raises UserError for one that cannot be read, and Refused for any other kind."""
    try:
        with path.open("rb") as file:
            head = file.read(len(OLD_TORCH))
    except OSError as error:
        raise unreadable(label, path, error) from error
    if head[:4] == b"PK\x03\x04":
        return "torch"
    if head == OLD_TORCH:
        return "old torch"
    if len(head) >= 9 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    beginning = "a web page" if head[:1] == b"<" else f"it begins with {head[:8]!r}"
    raise Refused(
        f"{label} is no pickle, torch file or safetensors ({beginning}): check the address, and fetch it again"
    )


def read_network(path: Path, label: str, key: str | None = None) -> NetworkFile:
    """Return names, tensors and architecture of any kind; a pickle's and a safetensors file's data stay on disk.

    ``key`` chooses among several networks. Raises Refused or UserError in one line that names ``label``.
    """
    with reading(label, path):
        kind = format_of(path, label)
        if kind == "pickle":
            return published_network(read_pickle(path, label), label, key)
        if kind in ("torch", "old torch"):
            value = _read_torch(path, label) if kind == "torch" else read_old_torch(path, label)
            return _chosen(kind, value, label, key)
        if key is not None:
            raise UserError(f"{label}: is a safetensors file, which holds one network: leave --key out")
        return _read_safetensors(path, label)


def _chosen(kind: Format, value: Any, label: str, key: str | None) -> NetworkFile:
    """Return one network of a torch file's value."""
    networks = state_dicts(value)
    if not networks:
        raise Refused(f"{label} holds no mapping from names to tensors, which a network's state_dict is: save one")
    told = {name: summary(name, tensors) for name, tensors in networks.items()}
    name = choose(told, value, key, label)
    about = {} if name in USUAL and key is None else {"key": name}
    return NetworkFile(kind, networks[name], None, about, networks=told, optimizers=optimizers(value))


def tensors_of(network_file: NetworkFile, path: Path) -> dict[str, Tensor]:
    """Return copies of all tensors as torch's, whatever they were read from; types stay as they are."""
    if network_file.format == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return {name: _copy(tensor) for name, tensor in network_file.tensors.items()}


def _copy(tensor: Any) -> Tensor:
    import torch

    if not isinstance(tensor, TensorView):
        return tensor.detach().clone().contiguous()
    copy = torch.from_numpy(np.array(tensor.array()))
    return copy.view(torch.bfloat16) if tensor.dtype == "bfloat16" else copy


# -- torch


def _read_torch(path: Path, label: str) -> Any:
    import torch

    with reading(label, path, "a damaged torch file"):
        _check_zip(path, label)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ) as error:  # of an index that passed: torch's reasons, or a version or a storage that it does not know
        raise Refused(f"{label} is refused by torch.load(weights_only=True): {reason(error)}") from error


def _check_zip(path: Path, label: str) -> None:
    """Refuse a zip with compressed members (torch never compresses), or whose index is costly to read."""
    budget = Budget(path.stat().st_size, INDEX_ELEMENTS)
    with opened_zip(path, budget, (zipfile.ZIP_STORED,)) as archive:
        members = archive.infolist()
        index = [member for member in members if member.filename.endswith("data.pkl")]
        if len(index) != 1 or index[0].file_size > TORCH_PICKLE_BYTES:
            raise Refused(f"{label} is refused: it is a zip, but not what torch.save writes")
        content = archive.read(index[0])
    folder = f"{index[0].filename.removesuffix('data.pkl')}data/"
    storages = {member.filename.removeprefix(folder): member.file_size for member in members}
    try:
        check_index(content, storages, budget)
    except Refused as error:
        pickled = "torch_utils.persistence" in str(error)  # a whole network of NVIDIA's, in EDM's training states
        remedy = (
            "Take the network-snapshot-*.pkl saved with it" if pickled else "A file of state_dicts alone is accepted"
        )
        raise Refused(f"{label} is refused: {error}; nothing in it was executed. {remedy}") from error


# -- safetensors


def _read_safetensors(path: Path, label: str) -> NetworkFile:
    from safetensors import safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(HEADER_BYTES, path.stat().st_size - 8):
        raise Refused(f"{label} is a damaged safetensors file (header of {length} bytes): fetch it again")
    with reading(label, path, "not a readable safetensors file"), safe_open(path, framework="np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        shapes = {name: (_SAFE[part.get_dtype()], tuple(part.get_shape())) for name, part in slices.items()}
        about = parse_json((opened.metadata() or {}).get(HEADER_KEY, "{}").encode())
    if not isinstance(about, dict) or not isinstance(about.get("network"), dict):
        return NetworkFile("safetensors", shapes, None)
    return NetworkFile("safetensors", shapes, about.pop("network"), about)


_SAFE = {
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("F", "float")) for bits in (16, 32, 64)},
    **{"BF16": "bfloat16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
}
