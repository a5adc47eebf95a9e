"""Limits on what a foreign file may ask of this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on one file. The defaults read the largest published networks and refuse bombs within seconds.

    ``file_bytes``: size of the file. ``opcodes``: instructions, nested streams included. ``depth``: containers inside each
    other. ``spare_bytes`` and ``growth``: objects and tensors built from the file may each take ``spare_bytes`` plus
    ``growth`` times its size, so that neither a memo nor an expanded tensor makes much out of little.
    """

    file_bytes: int = 32 * 2**30
    opcodes: int = 2_000_000
    depth: int = 200
    spare_bytes: int = 64 * 2**20
    growth: int = 8


class Budget:
    """Rest of the limits for one file; shared by the streams nested in it."""

    def __init__(self, limits: Limits, size: int) -> None:
        self.opcodes = limits.opcodes
        self.limits = limits
        self._objects = self._tensors = limits.spare_bytes + limits.growth * size

    def charge(self, size: int) -> None:
        """Account for bytes of memory about to be taken by Python objects."""
        self._objects -= size
        if self._objects < 0:
            raise ValueError("its objects would take far more memory than the file has bytes")

    def charge_tensor(self, size: int) -> None:
        """Account for a tensor of ``size`` bytes, which costs nothing before somebody copies it."""
        self._tensors -= size
        if self._tensors < 0:
            raise ValueError("its tensors would take far more memory than the file has bytes")
