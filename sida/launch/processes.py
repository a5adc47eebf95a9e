"""Which process is which: a pid alone is reused, a pid with its start time is not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LINUX = sys.platform.startswith("linux")
HIDDEN = "hidden"  # it runs, but /proc does not show it (another user's, under hidepid)


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
        """The process that has ``pid`` now; one that is not there is never alive."""
        return cls(pid, _start_time(pid) or "gone")

    @classmethod
    def parse(cls, text: str) -> Process:
        """The inverse of ``str``. Raises ValueError."""
        pid, _, started = text.partition("@")
        return cls(int(pid), started)

    def __str__(self) -> str:
        return f"{self.pid}@{self.started}"

    def alive(self) -> bool:
        """False once it has ended, also while its parent has not yet waited for it."""
        return _start_time(self.pid) in (self.started, HIDDEN)


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Equal for two processes exactly when they can see each other's pids: host, boot and pid namespace."""
    name = os.uname().nodename
    if not LINUX:
        return name
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{name}/{boot}/{os.readlink('/proc/self/ns/pid')}"


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _start_time(pid: int) -> str | None:
    """Clock ticks since boot on Linux, a date elsewhere; None for a process that has ended."""
    if LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return HIDDEN if _signalable(pid) else None
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, started = listed.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else "_".join(started.split())
