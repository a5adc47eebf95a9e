"""Limits on what a foreign file may ask of this machine.

They read the largest published networks and refuse bombs within seconds. Objects and tensors built from a file may each take
``SPARE_BYTES`` plus ``GROWTH`` times its size, so that neither a memo nor an expanded tensor makes much out of little.
"""

from __future__ import annotations

FILE_BYTES = 32 * 2**30
OPCODES = 2_000_000  # instructions, nested streams included
DEPTH = 200  # containers inside each other
SPARE_BYTES = 64 * 2**20
GROWTH = 8


class Budget:
    """Rest of the limits for one file of ``size`` bytes; shared by the streams nested in it."""

    def __init__(self, size: int, opcodes: int = OPCODES) -> None:
        self.opcodes = self.most_opcodes = opcodes
        self._objects = self._tensors = SPARE_BYTES + GROWTH * size

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
