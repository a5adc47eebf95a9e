"""torch's pickles: the old stream, in the bytes of a storage or as a whole file, and the index of a torch file.

torch runs no code of an index (``data.pkl``), but a crafted one can keep it busy for hours: so our interpreter runs it first, under
its limits on work, memory, depth and keys, and every tensor is checked to lie inside its member of the archive. What passes, torch
reads in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sida.errors import Refused
from sida.foreign.accepted import STATE_DICTS, Call
from sida.foreign.limits import Budget
from sida.foreign.machine import Machine, check_nesting
from sida.foreign.stand_ins import STORAGES, Global, Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
INDEX_ELEMENTS = 1_000_000  # thirty for a tensor: 33,000 tensors
_NAMES: dict[str, Call] = dict.fromkeys(STORAGES)  # mentioned only


def _named_storage(identity: Any) -> tuple[str, str, int]:
    """Return key, dtype and count of elements of the storage that a persistent id names."""
    if not (isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage"):
        raise ValueError("a persistent id that is not torch's for a storage")
    _, kind, key, location, count, *view = identity
    dtype = STORAGES.get(kind.name) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(key, str) or not isinstance(location, str) or view not in ([], [None]):
        raise ValueError("a storage of another kind than torch's plain ones")
    if type(count) is not int or count < 0:
        raise ValueError("a storage without a count of elements")
    return key, dtype, count


def read_storage(budget: Budget, raw: Any) -> Storage:
    """Read the output of ``torch.save(storage, _use_new_zipfile_serialization=False)``: five pickles, a count, the data."""
    if not isinstance(raw, bytes | memoryview):
        raise ValueError("a storage that is not made of bytes")
    raw, at = memoryview(raw), 0
    storages: list[tuple[str, str, int]] = []

    def persistent_load(identity: Any) -> Any:
        storages.append(_named_storage(identity))
        return storages[-1]

    parts = []
    for _ in range(5):
        machine = Machine(raw, budget, _NAMES, persistent_load, at)
        try:
            parts.append(machine.run())
        except Refused as error:
            raise Refused(f"in the bytes of a storage: {error}") from error
        at = machine.at
    magic, protocol, system, value, keys = parts
    if magic != MAGIC or protocol != PROTOCOL:
        raise ValueError("a storage that does not begin as torch's old stream does")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a storage that is not little-endian")
    if len(storages) != 1 or value is not storages[0] or keys != [storages[0][0]]:
        raise ValueError("a storage stream that does not hold exactly one storage")
    _, dtype, count = storages[0]
    body = raw[at:]
    storage = Storage(dtype, count, body[8:])
    expected = 8 + count * storage.bits.itemsize
    if len(body) >= 8 and (said := int.from_bytes(body[:8], "little")) != count:
        raise ValueError(f"a storage of {count} {dtype} whose data says that it has {said}")
    if len(body) != expected:
        raise ValueError(f"a storage of {count} {dtype} whose data has {len(body)} bytes instead of {expected}")
    return storage


def read_old_file(data: memoryview, budget: Budget) -> Any:
    """Return the value of a file that torch wrote before 1.6: five pickles, then for each storage a count and the data.

    Tensors come as views of the file. Raises Refused, which names the instruction or global, and ValueError.
    """
    storages: dict[str, Storage] = {}

    def persistent_load(identity: Any) -> Storage:
        key, dtype, count = _named_storage(identity)
        storage = storages.setdefault(key, Storage(dtype, count, memoryview(b"")))
        if (storage.dtype, storage.count) != (dtype, count):
            raise ValueError("a storage that is named as two different ones")
        return storage

    def value_at(at: int) -> Machine:
        return Machine(data, budget, STATE_DICTS | _NAMES, persistent_load, at)

    at, head = 0, []
    for _ in range(3):
        machine = Machine(data, budget, {}, None, at)
        head.append(machine.run())
        at = machine.at
    if head[:2] != [MAGIC, PROTOCOL] or not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise ValueError("it does not begin as torch's old files do, or is not little-endian")
    first = value_at(at)
    first.run()  # which tells the storages; their data come after it
    last = Machine(data, budget, {}, None, first.at)
    keys = last.run()
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys) and sorted(keys) == sorted(storages)):
        raise ValueError("its list of storages is not that of its tensors")
    start = last.at
    for key in keys:
        storage = storages[key]
        stop = start + 8 + storage.count * storage.bits.itemsize
        if stop > len(data) or int.from_bytes(data[start : start + 8], "little") != storage.count:
            raise ValueError(f"a storage of {storage.count} {storage.dtype} whose data is cut off, or says otherwise")
        storages[key] = Storage(storage.dtype, storage.count, data[start + 8 : stop])
        start = stop
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes follow its last storage")
    value = value_at(at).run()
    check_nesting(value)
    return value


def check_index(index: bytes, members: Mapping[str, int], budget: Budget) -> None:
    """Raise Refused naming the instruction or global; ``members``: bytes of each storage by key, ``budget``: of the file."""

    def persistent_load(identity: Any) -> Storage:
        key, dtype, count = _named_storage(identity)
        storage = Storage(dtype, count, memoryview(b""))
        if members.get(key) != count * storage.bits.itemsize:
            raise ValueError(f"a storage of {count} {dtype} whose data has {members.get(key)} bytes")
        return storage

    Machine(memoryview(index), budget, STATE_DICTS | _NAMES, persistent_load).run_whole("the end of its index")
