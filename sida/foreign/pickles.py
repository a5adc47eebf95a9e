"""Read a foreign pickle: the file as one view, the outer stream, torch's streams inside, and a last look at depth."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO

from sida.errors import Refused, UserError
from sida.foreign.accepted import CALLS, NAMES, NEW, STORAGES, PendingArray
from sida.foreign.limits import Budget, Limits
from sida.foreign.machine import Machine
from sida.foreign.stand_ins import DTYPES, Global, Inert, Storage

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
BLOCK_BYTES = 1 << 20

Source = BinaryIO | bytes | bytearray | memoryview | Path


def read_pickle(source: Source, *, what: str, limits: Limits = Limits()) -> Any:  # noqa: B008 - frozen
    """Return the value of a foreign pickle (protocols 2 to 5); nothing of it is executed.

    ``what`` names the file in messages. A path or an open file is mapped into memory, not read; an open file is taken
    from where it stands. Comes back: None, bool, int, float, str (Python 2's str as bytes), list, tuple, dict (also
    for OrderedDict and EasyDict), set; byte strings longer than 4 KiB as read-only memoryviews; numpy arrays and
    scalars, read-only; ``TensorView`` for tensors and parameters; ``Inert`` for everything of another class. Containers may
    be shared and may contain themselves: walk them with a list of what was seen.
    Raises Refused, which names the instruction or global, and UserError when the file cannot be read.
    """
    data = _view(source, what, limits)
    budget = Budget(limits, len(data))
    try:
        machine = Machine(data, 0, budget, _OUTER, lambda raw: _read_storage(raw, budget))
        value = machine.run()
        if machine.at != len(data):
            raise Refused(f"{len(data) - machine.at} bytes follow its end")
        check_nesting(value, limits.depth)
        return value
    except Refused as error:
        raise Refused(
            f"{what} is refused: {error}; nothing in it was executed. Get the file from its publisher"
        ) from error


_OUTER = frozenset(CALLS.keys() | NEW.keys() | NAMES)


def _view(source: Source, what: str, limits: Limits) -> memoryview:
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return _view(file, what, limits)
        except OSError as error:
            raise UserError(f"cannot read {what}: {error.strerror}") from error
    raw = source if isinstance(source, bytes | bytearray | memoryview) else _map(source, limits)
    data = memoryview(raw).cast("B").toreadonly()
    if len(data) > limits.file_bytes:
        raise Refused(f"{what} is refused: it is larger than {limits.file_bytes} bytes")
    return data


def _map(file: BinaryIO, limits: Limits) -> memoryview:
    """Map a file of the system; read any other (a member of an archive)."""
    if isinstance(getattr(file, "raw", file), io.FileIO) and os.fstat(file.fileno()).st_size > file.tell():
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[file.tell() :]
    content = bytearray()
    while len(content) <= limits.file_bytes and (block := file.read(BLOCK_BYTES)):
        content += block
    return memoryview(content)


# -- torch's old stream


def _read_storage(raw: memoryview, budget: Budget) -> Storage:
    """Read the output of ``torch.save(storage, _use_new_zipfile_serialization=False)``: five pickles, a count, the data."""
    storages: list[tuple[str, str, int]] = []

    def persistent_load(identity: Any) -> Any:
        if not (isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"):
            raise ValueError("a persistent id that is not torch's for a storage")
        _, kind, key, location, count, view = identity
        dtype = STORAGES.get((kind.module, kind.name)) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or not isinstance(location, str) or view is not None:
            raise ValueError("a storage of another kind than torch's plain ones")
        if type(count) is not int or count < 0:
            raise ValueError("a storage without a count of elements")
        storages.append((key, dtype, count))
        return storages[-1]

    def no_storage(raw: memoryview) -> Storage:
        raise ValueError("a storage inside a storage")

    at, parts = 0, []
    for _ in range(5):
        machine = Machine(raw, at, budget, STORAGES.keys(), no_storage, persistent_load)
        try:
            parts.append(machine.run())
        except Refused as error:
            raise Refused(f"in the bytes of a storage: {error}") from error
        at = machine.at
    magic, protocol, system, value, keys = parts
    if magic != TORCH_MAGIC or protocol != TORCH_PROTOCOL:
        raise ValueError("a storage that does not begin as torch's old stream does")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a storage that is not little-endian")
    if len(storages) != 1 or value is not storages[0] or keys != [storages[0][0]]:
        raise ValueError("a storage stream that does not hold exactly one storage")
    _, dtype, count = storages[0]
    body = raw[at:]
    expected = 8 + count * DTYPES[dtype][0]
    if len(body) != expected or int.from_bytes(body[:8], "little") != count:
        raise ValueError(f"a storage of {count} {dtype} whose data has {len(body)} bytes instead of {expected}")
    return Storage(dtype, count, body[8:])


# -- the whole value


def check_nesting(value: Any, depth: int) -> None:
    """Refuse objects nested deeper than ``depth``, and arrays that never got their state; in time linear in the objects."""
    level, seen = [value], {id(value)}
    for _ in range(depth):
        below: list[Any] = []
        for item in level:
            for part in _parts(item):
                if isinstance(part, list | tuple | dict | Inert | PendingArray) and id(part) not in seen:
                    seen.add(id(part))
                    below.append(part)
        if not below:
            return
        level = below
    raise Refused(f"its containers are nested more than {depth} deep")


def _parts(item: Any) -> Any:
    if isinstance(item, PendingArray):
        raise Refused("a numpy array never gets its state: the file is damaged")
    if isinstance(item, dict):
        return item.values()
    if isinstance(item, Inert):
        return (item.args, item.state)
    return item if isinstance(item, list | tuple) else ()
