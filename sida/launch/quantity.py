"""Kubernetes' quantities as numbers: ``250m`` cores, ``64Gi`` of memory, 8 of a device."""

from __future__ import annotations

import re
from decimal import Decimal

_SCALES = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)}
_SCALES |= {letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", 2)}
_SCALES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
_FORM = re.compile(rf"([0-9.]+(?:[eE][-+]?[0-9]+)?)({'|'.join(_SCALES)})?")


def amount(quantity: str | int) -> Decimal:
    """Return the number that a quantity is; of memory in bytes. Raises ValueError for none."""
    if (form := _FORM.fullmatch(str(quantity))) is None:
        raise ValueError(f"{quantity!r} is no quantity: write 500m, 4 or 64Gi")
    return Decimal(form[1]) * _SCALES.get(form[2] or "", Decimal(1))
