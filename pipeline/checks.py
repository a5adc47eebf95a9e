"""One check of ``doctor``: its result, what a failure prevents, how to fix it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

# off: not there, and not needed on a laptop; unseen: could not be looked at from here, or with these rights
State = Literal["ok", "off", "bad", "unseen"]


@dataclass(frozen=True)
class Check:
    """Line of ``doctor``; ``prevents`` and ``mend`` are empty when all is well."""

    name: str
    state: State
    found: str
    prevents: str = ""
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)
