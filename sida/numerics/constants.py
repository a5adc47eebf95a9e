"""Small constants on a device, without waiting for it: written there by its own kernels, not copied from the host's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """Return the numbers as a tensor [N] of ``like``'s dtype on its device; at least one.

    >>> constant([1, 0.5], torch.zeros(3))
    tensor([1.0000, 0.5000])
    """
    return torch.cat([like.new_full((1,), value) for value in values])
