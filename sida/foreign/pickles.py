"""Read a foreign pickle of NVIDIA, SiDA's authors, or numpy's arrays, and torch's old files, which are pickles in a row."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.errors import Refused
from sida.foreign.accepted import CALLS
from sida.foreign.boundary import reading, unreadable
from sida.foreign.limits import Budget
from sida.foreign.machine import Machine
from sida.foreign.torch_streams import read_old_file, read_storage

_ACCEPTED = {**CALLS, "torch.storage._load_from_bytes": read_storage}


def read_pickle(source: bytes | Path, label: str) -> Any:
    """Return the value of a foreign pickle (protocols 2 to 5); nothing of it is executed.

    ``label`` names the file in messages. A file is mapped into memory, not read. Comes back: None, bool, int, float, str
    (Python 2's str as bytes), list, tuple, dict (also for OrderedDict and EasyDict), set; byte strings longer than 4 KiB as
    read-only memoryviews; numpy arrays and scalars, read-only; ``TensorView`` for tensors and parameters; ``Inert`` for
    everything of another class. Containers may be shared and may contain themselves: walk them with a list of what was seen.
    Raises Refused, which names the instruction or global, and UserError when the file cannot be read.
    """
    return _read(source, label, lambda data, budget: Machine(data, budget, _ACCEPTED).run_whole("its end"))


def read_old_torch(source: Path, label: str) -> Any:
    """Return the value of a file of torch before 1.6, as ``read_pickle`` does; state dicts and plain values alone are accepted."""
    return _read(source, label, read_old_file)


def _read(source: bytes | Path, label: str, value: Callable[[memoryview, Budget], Any]) -> Any:
    with reading(label, source if isinstance(source, Path) else None):
        data = memoryview(_mapped(source, label) if isinstance(source, Path) else source)
        try:
            return value(data, Budget(len(data)))
        except (Refused, ValueError) as error:
            raise Refused(
                f"{label} is refused: {error}; nothing in it was executed. Get the file from its publisher"
            ) from error


def _mapped(path: Path, label: str) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise unreadable(label, path, error) from error
