"""Check the index of a torch file before torch reads it: torch runs no code here, but a crafted index can keep it busy for hours.

The index (``data.pkl``) is run by our interpreter under its limits on work, memory, depth and keys, and every tensor is checked to
lie inside its member of the archive. What passes, torch reads in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sida.errors import Refused
from sida.foreign.accepted import STORAGES
from sida.foreign.limits import Budget, Limits
from sida.foreign.machine import Machine
from sida.foreign.pickles import check_nesting
from sida.foreign.stand_ins import DTYPES, Global, Storage

LIMITS = Limits(opcodes=1_000_000)  # thirty for a tensor: 33,000 tensors
ACCEPTED = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_tensor_v2"),
        *STORAGES,
    }
)


def check_index(index: bytes, members: Mapping[str, int], size: int) -> None:
    """Raise Refused naming the instruction or global; ``members``: bytes of each storage by key, ``size``: of the file."""

    def persistent_load(identity: Any) -> Storage:
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise ValueError("a persistent id that is not torch's for a storage")
        _, kind, key, _, count = identity
        dtype = STORAGES.get((kind.module, kind.name)) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a storage of another kind than torch's plain ones")
        if members.get(key) != count * DTYPES[dtype][0]:
            raise ValueError(f"a storage of {count} {dtype} whose data has {members.get(key)} bytes")
        return Storage(dtype, count, memoryview(b""))

    def no_stream(raw: memoryview) -> Storage:
        raise ValueError("a stream inside the index")

    machine = Machine(memoryview(index), 0, Budget(LIMITS, size), ACCEPTED, no_stream, persistent_load)
    value = machine.run()
    if machine.at != len(index):
        raise Refused(f"{len(index) - machine.at} bytes follow the end of its index")
    check_nesting(value, LIMITS.depth)
