"""Reads every file of a folder, each in a process of its own with limits, and prints what became of it as JSON.

``python -m tests.foreign.child FOLDER [network]``: {file: {"said": message or "read", "seconds": ..., "extra_mib": ..., "status":
...}}; with ``network`` each is read as ``fetch_teacher`` would, whatever its kind.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sida.foreign import Refused, read_pickle

SECONDS = 20  # of processor time, after which the system ends it
MEMORY_MIB = 700


def reader_of(kind: str) -> Callable[[Path], object]:
    """What reads a file; imports what it needs, so that the limits count the file alone."""
    if kind != "network":
        return lambda path: read_pickle(path, path.name)
    import torch

    from sida.teachers.formats import read_network

    torch.zeros(1).add_(1)
    return lambda path: read_network(path, path.name)


def main(folder: Path, kind: str = "") -> None:
    read = reader_of(kind)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {}
    for path in sorted(folder.iterdir()):
        started, (reader, writer) = time.monotonic(), os.pipe()
        if (pid := os.fork()) == 0:
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_MIB * 2**20,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS,) * 2)
            os.close(reader)
            try:
                read(path)
                said = "read"
            except Refused as error:
                said = str(error)
            except BaseException as error:
                said = f"TRACEBACK {type(error).__name__}: {error}"
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status, usage = os.wait4(pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        found[path.name] = {
            "said": said,
            "seconds": round(seconds, 2),
            "wall": round(time.monotonic() - started, 2),
            "extra_mib": (usage.ru_maxrss - base) // 1024,
            "status": status,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
