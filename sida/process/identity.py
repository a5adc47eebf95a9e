"""Identity of processes: a pid alone is reused, a pid with its start time is not."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

LINUX = sys.platform.startswith("linux")
HIDDEN = "hidden"  # it runs, but may not be looked at (another user's, under hidepid)
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True)
class Process:
    """A process of this machine, for its whole life and no longer; ``started`` is opaque, one word."""

    pid: int
    started: str

    @classmethod
    def current(cls) -> Process:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has ``pid`` now; one that has ended is never alive."""
        return cls(pid, _start_time(pid) or "gone")

    @classmethod
    def parse(cls, text: str) -> Process:
        """Parse the text of ``str``. Raises ValueError."""
        pid, _, started = text.partition("@")
        return cls(int(pid), started)

    def __str__(self) -> str:
        return f"{self.pid}@{self.started}"

    def alive(self) -> bool:
        """Return True until it has ended; one whose parent has not yet waited for it has ended."""
        return _start_time(self.pid) in (self.started, HIDDEN)


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Return a text that is equal for two processes exactly when they can see each other's pids: host, boot and pid namespace."""
    name = os.uname().nodename
    if not LINUX:
        return name
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{name}/{boot}/{os.readlink('/proc/self/ns/pid')}"


def _start_time(pid: int) -> str | None:
    """Return the start in clock ticks, on Linux since boot; None for a process that has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() in _ENDED:
            return None
        booted = psutil.boot_time() if LINUX else 0.0
        ticks = round((process.create_time() - booted) * os.sysconf("SC_CLK_TCK"))
    except psutil.AccessDenied:
        return HIDDEN
    except psutil.NoSuchProcess:
        return HIDDEN if _signalable(pid) else None
    except ValueError:
        return None  # below zero
    if LINUX and psutil.boot_time() != booted:
        return _start_time(pid)  # the clock has just been set
    return str(ticks)


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
