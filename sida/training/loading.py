"""Networks read from files into the memory that they stay in: of what is divided, each process reads its own rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.foreign.boundary import reading
from sida.numerics.networks.precondition import Denoiser
from sida.teachers.files import check_fits
from sida.training.division import local
from sida.training.stored import StoredTensors, own_part


@torch.no_grad()
def load_into(network: Denoiser, path: Path, fields: Mapping[str, Any], device: torch.device) -> None:
    """Fill a network, built on the meta device, with the weights of a file, whose head may be more than it wants.

    ``fields``: the architecture of the file's network. Raises UserError that lists missing and unexpected names, or wrong shapes.
    """
    with reading(str(path), path):
        stored = StoredTensors([path])
        check_fits(fields, {name: tuple(stored.shape(name)) for name in stored}, str(path))
    network.to_empty(device=device)
    for name, target in network.state_dict().items():
        local(target).copy_(own_part(stored, name, target))
