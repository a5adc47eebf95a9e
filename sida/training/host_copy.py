"""A device's tensors copied to this machine's memory, into the same memory each time.

torch pins memory in powers of two, one block a tensor: a third more than the tensors hold, of what the system can never page out.
So the copy lies in ordinary memory, and only one small block is pinned, through which tensors pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sida import devices

STAGE_BYTES = 64 * 2**20
ALIGNED = 64  # bytes; where a tensor begins

Place = tuple[int, torch.dtype, torch.Size]  # first byte; kind


class HostCopy:
    """One copy of a set of named tensors."""

    def __init__(self, stage_bytes: int = STAGE_BYTES) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._places: dict[str, Place] = {}
        self._stage: Tensor | None = None
        self._stage_bytes, self._filled = stage_bytes, 0
        self._staged: list[tuple[Tensor, Tensor]] = []  # part of the stage, where it goes

    def take(
        self, tensors: Mapping[str, Tensor], contents: Iterable[tuple[str, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """The tensors as they are now, on the CPU, contiguous; valid until the next call. Waits for their device.

        ``contents`` gives them one after another, by name, where ``tensors`` tells only their kinds.
        """
        places, size = _places(tensors)
        if places != self._places:
            self._memory = torch.empty(0, dtype=torch.uint8)  # before there is another
            self._memory, self._places = torch.empty(size, dtype=torch.uint8), places
        copies = {name: _view(self._memory, *place) for name, place in places.items()}
        waiting = set()
        for name, tensor in tensors.items() if contents is None else contents:
            if devices.apart(tensor.device):
                self._send(tensor.detach().reshape(-1), copies[name].view(-1))
            else:
                copies[name].copy_(tensor.detach())
            waiting.add(tensor.device)
            del tensor  # before the next one is made
        for device in waiting:
            self._land(device)
        return copies

    def _send(self, source: Tensor, target: Tensor) -> None:
        """A flat tensor of the device, in pieces that the stage has room for."""
        if self._stage is None:
            self._stage = devices.host_bytes(self._stage_bytes, source.device)
        size = source.element_size()
        while len(source):
            room = (self._stage_bytes - self._filled) // size
            if room <= 0:
                self._land(source.device)
                continue
            piece = self._stage[self._filled : self._filled + min(room, len(source)) * size].view(source.dtype)
            piece.copy_(source[: len(piece)], non_blocking=True)
            self._staged.append((piece, target[: len(piece)]))
            source, target = source[len(piece) :], target[len(piece) :]
            self._filled += -(-piece.nbytes // ALIGNED) * ALIGNED

    def _land(self, device: torch.device) -> None:
        devices.wait(device)
        for piece, target in self._staged:
            target.copy_(piece)
        self._staged.clear()
        self._filled = 0


def _places(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Place], int]:
    places: dict[str, Place] = {}
    begin = 0
    for name, tensor in tensors.items():
        places[name] = begin, tensor.dtype, tensor.shape
        begin += -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED
    return places, begin


def _view(memory: Tensor, begin: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    size = shape.numel() * dtype.itemsize
    return memory[begin : begin + size].view(dtype).view(shape)
