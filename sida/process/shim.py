"""Run as a file, not imported: tie this process to its launcher, then become the given command.

    python -I -S shim.py PARENT_PID COMMAND ARGUMENT...

A function between fork and exec would do the same, but may deadlock when the launcher has threads. Knows
nothing of this package, so that it starts in some 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to kill us with our parent; one that died before we asked shows in the changed ppid."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.execv(command[0], command)


main()
