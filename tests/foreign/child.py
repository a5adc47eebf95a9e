"""Reads every file of a folder, each in a process of its own with limits, and prints what became of it as JSON.

``python -m tests.foreign.child FOLDER``: {file: {"said": message or "read", "seconds": ..., "extra_mib": ..., "status": ...}}
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from sida.foreign import Refused, read_pickle

SECONDS = 20  # of processor time, after which the system ends it
MEMORY_MIB = 700


def main(folder: Path) -> None:
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
                read_pickle(path, what=path.name)
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
    main(Path(sys.argv[1]))
