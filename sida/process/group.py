"""Processes that work on one thing: started together, ended together, and found by a mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sida.process.identity import Process
from sida.process.marked import kill_marked
from sida.process.parent import PARENTS

SHIM = Path(__file__).with_name("shim.py")
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Ended:
    """A process that has ended; ``status`` is negative for a signal."""

    number: int
    status: int


class Group:
    """Children of this process, numbered in the order of their start. ``end`` them in any case."""

    def __init__(self, mark: str, value: str) -> None:
        """``mark``: the variable that is set to ``value`` in their environment and so in that of whatever they start."""
        self._mark, self._value = mark, value
        self._children: list[subprocess.Popen[bytes]] = []
        self._asked = False
        self.failed: list[Ended] = []  # in the order in which they ended; without those that died of our own signals

    def start(
        self, command: Sequence[str], variables: Mapping[str, str], output: BinaryIO, descriptors: Sequence[int] = ()
    ) -> None:
        """Start one in a session of its own, which dies with us and inherits ``descriptors``."""
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**variables, PARENTS: str(Process.current()), self._mark: self._value},
            start_new_session=True,
            pass_fds=descriptors,
        )
        self._children.append(child)

    def runs(self) -> bool:
        """Return whether any still runs, after a moment's wait."""
        running = [child for child in self._children if child.returncode is None]
        ended = [child for child in running if child.poll() is not None]
        if len(ended) < len(running) and not ended:
            time.sleep(POLL_SECONDS)
        for child in ended:
            if child.returncode > 0 or (child.returncode < 0 and not self._asked):
                self.failed.append(Ended(self._children.index(child), child.returncode))
        return len(ended) < len(running)

    def terminate(self) -> None:
        """Ask those that run to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill those that run."""
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Kill those that run and whatever they have started; return when none is left."""
        self.kill()
        for child in self._children:
            child.wait()
        kill_marked(self._mark, self._value)

    def _signal(self, number: int) -> None:
        self._asked = True
        for child in self._children:
            if child.poll() is None:
                with suppress(ProcessLookupError):
                    child.send_signal(number)
