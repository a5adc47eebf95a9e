"""The tensors of a checkpoint or network, in one or more files: each is read when it is asked for, or some rows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sida.errors import Corrupt
from sida.training.division import divided, own_rows


class StoredTensors(Mapping[str, Tensor]):
    """What safetensors files hold together. Raises SafetensorError for another file, and Corrupt for a name in two of them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._file_of: dict[str, Any] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                if name in self._file_of:
                    raise Corrupt(f"tensor {name} is in two of the checkpoint's files")
                self._file_of[name] = file

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> torch.Size:
        """The shape of a whole tensor, which is not read."""
        return torch.Size(self._file_of[name].get_slice(name).get_shape())

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` - 1; no others are read. Of a tensor without dimensions all."""
        rows = self._file_of[name].get_slice(name)
        found: Tensor = rows[start:stop] if rows.get_shape() else self[name]
        return found


def own_part(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor that is to be divided as ``like`` is: its own rows, else all of it."""
    if not divided(like):
        return tensors[name]
    rows = own_rows(like)
    if isinstance(tensors, StoredTensors):
        return tensors.rows(name, rows.start, rows.stop)
    return tensors[name][rows.start : rows.stop]
