"""Worker processes on this machine, through torchrun.

    launcher (us) --> torchrun, in a session of its own --> one process per rank, each in a session of its own

Whoever of them is killed, the others end: torchrun by a parent-death signal (``shim.py``), the workers by
theirs (``parent.py``), and what is left over (helpers of workers, workers still importing) is found by a mark
in its environment and killed by the launcher.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sida.launch.base import Launcher, Stopped, Work
from sida.launch.pod import THREAD_VARIABLES
from sida.launch.worker_error import explain, failure
from sida.process.identity import LINUX, Process
from sida.process.marked import kill_marked
from sida.process.parent import PARENTS
from sida.process.signals import on_stop
from sida.settings import environment as inherited
from sida.settings import settings

WORKER = "sida.worker"
TICK_SECONDS = 1.0
POLL_SECONDS = 0.05
GRACE_SECONDS = 60.0
MARK = "SIDA_LAUNCH"
SHIM = Path(__file__).parents[1] / "process" / "shim.py"


class LocalLauncher(Launcher):
    """Processes of this machine.

    ``stop``, or SIGTERM and SIGINT in the main thread, ask the workers to end; a second time, or GRACE_SECONDS, kills them.
    """

    def __init__(self, log: Path, *, module: str = WORKER) -> None:
        self._log, self._module = log, module
        self._token = secrets.token_hex(12)
        self._wishes = 0  # how often somebody wanted it to end

    def run(self, work: Work) -> None:
        """Start the workers and wait for them. What ``work.check`` raises kills them and passes on."""
        work.log.parent.mkdir(parents=True, exist_ok=True)
        with work.log.open("ab") as log:
            begin = log.tell()
            torchrun = self._start(work, log)
        try:
            with on_stop(lambda number: self.stop()):
                status = self._wait(torchrun, work.check)
        finally:
            if torchrun.poll() is None:
                os.killpg(torchrun.pid, signal.SIGKILL)
                torchrun.wait()
            kill_marked(MARK, self._token)
        if self._wishes:
            raise Stopped(work.step)
        if status:
            cause, code = explain(work.log, begin, status, work.error())
            raise failure(f"{self._module} failed: {cause} (log: {work.log})", code)

    def stop(self) -> str:
        """Ask them to write a checkpoint and to end; ``run`` raises Stopped when they have."""
        self._wishes += 1
        return "stopping: its processes write a checkpoint"

    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return what they have said so far."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return iter(text.splitlines()) if text else None

    def _wait(self, torchrun: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
        heard, kill_at, next_check = 0, float("inf"), time.monotonic() + TICK_SECONDS
        while (status := torchrun.poll()) is None:
            try:
                torchrun.wait(POLL_SECONDS)
                continue
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if self._wishes > heard:
                kill_at = 0.0 if heard else now + GRACE_SECONDS
                heard = self._wishes
                torchrun.send_signal(signal.SIGTERM)
            if now >= kill_at:
                os.killpg(torchrun.pid, signal.SIGKILL)
            if now >= next_check and not heard:
                check()
                next_check = time.monotonic() + TICK_SECONDS
        return status

    def _start(self, work: Work, log: BinaryIO) -> subprocess.Popen[bytes]:
        here = settings()
        shim = [sys.executable, "-I", "-S", str(SHIM), str(os.getpid())]
        share = f"--nproc-per-node={here.workers or self._processes(work)}"
        torchrun = [
            *(sys.executable, "-m", "torch.distributed.run", *self._rendezvous()),
            *(share, "--max-restarts=0", "--monitor-interval=0.2", f"--shutdown-timeout={int(GRACE_SECONDS)}"),
            *("-m", self._module, "--job", work.job),
        ]
        variables = inherited() | {name: str(work.threads) for name in THREAD_VARIABLES}
        if "GLOO_SOCKET_IFNAME" not in variables:
            variables = self._interfaces() | variables
        variables |= {"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs), "PYTHONUNBUFFERED": "1"}
        variables |= {PARENTS: str(Process.current()), MARK: self._token}
        return subprocess.Popen(
            [*shim, *torchrun],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )

    def _processes(self, work: Work) -> int:
        """Return how many of the job's processes run here."""
        return work.processes

    def _rendezvous(self) -> list[str]:
        """Return torchrun's options for how its agents meet."""
        # Port 0: torchrun takes a free one and tells its workers, so that no two runs meet on one port.
        own = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", f"--rdzv-id={self._token}"]
        return ["--nnodes=1", *own, "--local-addr=127.0.0.1"]

    def _interfaces(self) -> dict[str, str]:
        """Return variables that name the network interface; else gloo looks up our own name, which often has no address."""
        return {"GLOO_SOCKET_IFNAME": "lo" if LINUX else "lo0"}
