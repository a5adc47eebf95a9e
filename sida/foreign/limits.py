"""Limits on what a foreign file may ask of this machine.

They read the largest published networks and refuse bombs within seconds. Objects and tensors built from a file may each take
``SPARE_BYTES`` plus ``GROWTH`` times its size, so that neither a memo, nor an expanded tensor, nor a compressed member makes much
out of little.
"""

from __future__ import annotations

import time

FILE_BYTES = 32 * 2**30
ELEMENTS = 2_000_000  # instructions, members, names; nested streams included
DEPTH = 200  # containers inside each other
SECONDS = 60  # of this thread's processor time
SPARE_BYTES = 64 * 2**20
GROWTH = 8
_CLOCK = 10_000  # elements between two looks at the clock


class Budget:
    """Rest of the limits for one file of ``size`` bytes; shared by all readers of what is nested in it."""

    def __init__(self, size: int, elements: int = ELEMENTS) -> None:
        if size > FILE_BYTES:
            raise ValueError(f"it is larger than {FILE_BYTES} bytes")
        self._elements = self._most_elements = elements
        self._objects = self._tensors = SPARE_BYTES + GROWTH * size
        self._ends = time.thread_time() + SECONDS
        self._next_look = elements - _CLOCK

    def spend(self, elements: int = 1) -> None:
        """Account for so many instructions, members or values about to be looked at."""
        self._elements -= elements
        if self._elements < 0:
            raise ValueError(f"more than {self._most_elements} instructions or values")
        if self._elements < self._next_look:
            self._next_look = self._elements - _CLOCK
            if time.thread_time() > self._ends:
                raise ValueError(f"reading it takes more than {SECONDS} seconds")

    def charge(self, size: int) -> None:
        """Account for bytes of memory about to be taken by Python objects or inflated data."""
        self._objects -= size
        if self._objects < 0:
            raise ValueError("its objects would take far more memory than the file has bytes")

    def charge_tensor(self, size: int) -> None:
        """Account for a tensor of ``size`` bytes, which costs nothing before somebody copies it."""
        self._tensors -= size
        if self._tensors < 0:
            raise ValueError("its tensors would take far more memory than the file has bytes")
