"""End workers together with the processes that started them.

Neither a launcher nor torchrun takes its workers along when killed with -9: they would train on, unseen.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from sida.process.identity import LINUX, Process
from sida.settings import environment

PARENTS = "SIDA_PARENTS"  # the launcher as pid@start: set by group.py
ORPHAN_EXIT = 75
POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Call first in a worker: from now on it is killed as soon as its parent or its launcher is gone.

    On Linux the kernel kills it with its parent; everywhere a thread looks twice a second whether parent and
    launcher are still there, and ends the process at once without clean-up. Without a
    launcher (a worker started by hand or by a cluster) only the parent is watched.
    """
    parent = os.getppid()
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    watched = [Process.parse(text) for text in environment().get(PARENTS, "").split()]
    _end_if_orphaned(parent, watched)  # they may have died before the kernel was asked
    threading.Thread(target=_watch, args=(parent, watched), name="parent watch", daemon=True).start()


def _watch(parent: int, watched: list[Process]) -> None:
    while True:
        time.sleep(POLL_SECONDS)
        _end_if_orphaned(parent, watched)


def _end_if_orphaned(parent: int, watched: list[Process]) -> None:
    if os.getppid() != parent or not all(process.alive() for process in watched):
        os._exit(ORPHAN_EXIT)
