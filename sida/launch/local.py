"""Worker processes on this machine.

    launcher (us) --> one process per rank, each in a session of its own

Whoever of them is killed, the others end: the ranks by a parent-death signal (``shim.py``, ``parent.py``), and what is left over
(helpers of workers, workers still importing) is found by a mark in its environment and killed by the launcher.

The ranks meet in a store (torch's TCPStore) that rank 0 keeps. Its socket is bound here, to the loopback, and handed down: torch by
itself would listen on every interface. Nothing that travels there is ever unpickled (``sida.worker.ranks``).
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from sida.launch.base import LISTENER, Launcher, Stopped, Work
from sida.launch.pod import THREAD_VARIABLES
from sida.launch.worker_error import TOLD, explain, failure, first_told
from sida.process.group import Ended, Group
from sida.process.identity import LINUX
from sida.process.signals import on_stop
from sida.settings import environment as inherited
from sida.settings import settings

WORKER = "sida.worker"
TICK_SECONDS = 1.0
MARK = "SIDA_LAUNCH"
LOOPBACK = "127.0.0.1"


class _Said:
    """Notes and progress of workers, passed on from their log where nobody reads events: else a pod's log would show nothing."""

    def __init__(self, log: Path, begin: int, step: str) -> None:
        self._log, self._at, self._start = log, begin, f"{step}: "
        self._heard = settings().events is None

    def pass_on(self) -> None:
        """Print what is new, without the error, which ends the launcher too."""
        if not self._heard:
            return
        with self._log.open("rb") as log:
            log.seek(self._at)
            whole, end, _ = log.read().rpartition(b"\n")
        self._at += len(whole + end)
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith(self._start) and not line.startswith(f"{self._start}error: "):
                print(line, file=sys.stderr, flush=True)


class LocalLauncher(Launcher):
    """Processes of this machine.

    ``stop``, or SIGTERM and SIGINT in the main thread, ask the workers to end; a second time, or SIDA_GRACE, kills them.
    """

    def __init__(self, log: Path, *, module: str = WORKER) -> None:
        self._log, self._module = log, module
        self._token = secrets.token_hex(12)
        self._wishes = 0  # how often somebody wanted it to end

    def run(self, work: Work) -> None:
        """Start the workers and wait for them. What ``work.check`` raises kills them and passes on."""
        work.log.parent.mkdir(parents=True, exist_ok=True)
        begin = work.log.stat().st_size if work.log.exists() else 0
        ranks = Group(MARK, self._token)
        hears, tells = os.pipe()
        try:
            with on_stop(lambda number: self.stop()):
                self._start(ranks, work, tells)
                said = _Said(work.log, begin, work.step)

                def check() -> None:
                    said.pass_on()
                    work.check()

                self._wait(ranks, check)
                said.pass_on()
        finally:
            ranks.end()
            told = first_told(hears)
            os.close(hears)
            os.close(tells)
        if self._wishes:
            raise Stopped(work.step)
        if ranks.failed:
            cause, code = explain(work.log, begin, [work.error(), told], self._numbered(ranks.failed, work))
            raise failure(f"{self._module} failed: {cause} (log: {work.log})", code)

    def settle(self, work: Work) -> None:
        """Do nothing: processes of this machine end with their launcher."""

    def stop(self) -> str:
        """Ask them to write a checkpoint and to end; ``run`` raises Stopped when they have."""
        self._wishes += 1
        return "stopping: its processes write a checkpoint"

    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return what they have said so far."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return iter(text.splitlines()) if text else None

    def _wait(self, ranks: Group, check: Callable[[], None]) -> None:
        heard, failed, kill_at, next_check = 0, False, float("inf"), time.monotonic() + TICK_SECONDS
        grace = settings().grace
        while ranks.runs():
            now = time.monotonic()
            if self._wishes > heard:
                kill_at = 0.0 if heard else now + grace
                heard = self._wishes
                ranks.terminate()
            elif ranks.failed and not failed:
                failed, kill_at = True, min(kill_at, now + grace)
                ranks.terminate()
            if now >= kill_at:
                ranks.kill()
            if now >= next_check and not heard:
                check()
                next_check = time.monotonic() + TICK_SECONDS

    def _numbered(self, failed: list[Ended], work: Work) -> list[Ended]:
        """Return those of this machine by their ranks."""
        first = self._place(work)[0]
        return [Ended(first + one.number, one.status) for one in failed]

    def _start(self, ranks: Group, work: Work, tells: int) -> None:
        here = settings()
        first, own, world = self._place(work)
        variables = inherited() | self._interfaces() | {name: str(work.threads) for name in THREAD_VARIABLES}
        variables |= {"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs), "PYTHONUNBUFFERED": "1"}
        variables |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(own), TOLD: str(tells)}
        address, port, listener = self._meeting_place() if world > 1 else (LOOPBACK, 0, None)
        variables |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", self._module, "--job", work.job]
        # Our copy of the listener is closed here: it is rank 0's, and ends with it.
        with listener or nullcontext(), work.log.open("ab") as log:
            for local in range(own):
                own_variables, descriptors = {"RANK": str(first + local), "LOCAL_RANK": str(local)}, [tells]
                if listener is not None and local == 0:
                    own_variables[LISTENER] = str(listener.fileno())
                    descriptors.append(listener.fileno())
                ranks.start(command, variables | own_variables, log, descriptors)

    def _place(self, work: Work) -> tuple[int, int, int]:
        """Return the number of the first process here, how many there are here, and of all machines."""
        own = settings().workers or work.processes
        return 0, own, own

    def _meeting_place(self) -> tuple[str, int, socket.socket | None]:
        """Return address and port of the ranks' store, and the socket that listens there if rank 0 is one of ours."""
        listener = socket.create_server((LOOPBACK, 0))
        return LOOPBACK, listener.getsockname()[1], listener

    def _interfaces(self) -> dict[str, str]:
        """Return variables that name the interface which gloo and NCCL listen on."""
        name = "lo" if LINUX else "lo0"
        return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
