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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sida.launch.base import Launcher, Stopped, Work
from sida.launch.log import explain, failure
from sida.launch.worker_error import WorkerError
from sida.process.identity import LINUX, Process
from sida.process.marked import kill_marked
from sida.process.parent import PARENTS
from sida.process.signals import on_stop
from sida.settings import environment as inherited
from sida.settings import settings

if TYPE_CHECKING:
    from sida.launch.nodes import Nodes

WORKER = "sida.training.worker"
TICK_SECONDS = 1.0
POLL_SECONDS = 0.05
GRACE_SECONDS = 60.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
MARK = "SIDA_LAUNCH"
SHIM = Path(__file__).parents[1] / "process" / "shim.py"


class LocalLauncher(Launcher):
    """Processes of this machine, whose output is in ``log``."""

    def __init__(self, log: Path) -> None:
        self._log, self._asked, self._runs = log, False, False

    def run(self, work: Work) -> None:
        """Start the workers and wait for them."""
        self._run(work, None)

    def _run(self, work: Work, nodes: tuple[Nodes, str] | None) -> None:
        self._runs = True
        try:
            run_work(work, nodes, stop=lambda: self._asked)
        finally:
            self._runs = False

    def stop(self) -> str:
        """Ask them to write a checkpoint and to end; ``run`` raises Stopped when they have."""
        self._asked = True
        return "stopping: its processes write a checkpoint"

    def log(self, *, follow: bool = False) -> Iterator[str] | None:
        """Return what they have said so far."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return iter(text.splitlines()) if text else None

    def status(self) -> str:
        """Say whether this launcher has processes at work."""
        return "its processes run" if self._runs else "no process of it runs here"


def run_work(work: Work, nodes: tuple[Nodes, str] | None, stop: Callable[[], bool] | None = None) -> None:
    """Run the processes of this machine, alone or as one of several. Raises as ``Launcher.run`` does."""
    here = settings()
    status = run_workers(
        WORKER,
        ["--job", work.job],
        processes=here.workers or work.processes,
        threads=work.threads,
        log_path=work.log,
        environment={"SIDA_STORE": here.store, "SIDA_RUNS": str(here.runs)},
        on_tick=work.check,
        stop=stop,
        nodes=nodes,
        error=work.error,
    )
    if status:
        raise Stopped(work.step)


def run_workers(
    module: str,
    arguments: Sequence[str],
    *,
    processes: int,
    threads: int,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] | None = None,
    stop: Callable[[], bool] | None = None,
    grace_seconds: float = GRACE_SECONDS,
    nodes: tuple[Nodes, str] | None = None,
    error: Callable[[], WorkerError | None] = lambda: None,
) -> int:
    """Run ``python -m module arguments`` in ``processes`` processes under torchrun and wait for them.

    Output is appended to ``log_path``. ``on_tick`` runs about once a second; what it raises kills the workers
    and passes on. SIGTERM and SIGINT (when called in the main thread), or ``stop`` answering true, ask the
    workers to end (SIGTERM); a second signal, or ``grace_seconds``, kills them. ``nodes``: the machines that run this
    together, and the job's id among them; ``processes`` are of this one. ``error`` reads what a worker published.

    Returns 0 when all ended well, 128 + signal when they were asked to stop. Raises UserError when a worker
    ended with status 2, Unavailable when it waited in vain, SidaError when one failed otherwise, with its last
    line and the log's path.
    """
    token = secrets.token_hex(12)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        begin = log.tell()
        torchrun = _start(module, arguments, processes, threads, log, environment or {}, token, nodes)
        run = _Run(torchrun, token, grace_seconds)
    try:
        with on_stop(run.ask_to_stop):  # others than the main thread use ``stop``
            status = run.wait(on_tick, stop)
    finally:
        run.kill()
    if run.stopped_by:
        return 128 + run.stopped_by
    if status == 0:
        return 0
    cause, code = explain(log_path, begin, status, error())
    raise failure(f"{module} failed: {cause} (log: {log_path})", code)


class _Run:
    """torchrun and its workers."""

    def __init__(self, torchrun: subprocess.Popen[bytes], token: str, grace_seconds: float) -> None:
        self.torchrun, self.token, self.grace_seconds = torchrun, token, grace_seconds
        self.stopped_by = 0
        self._kill_at = float("inf")

    def wait(self, on_tick: Callable[[], None] | None, stop: Callable[[], bool] | None) -> int:
        next_tick = time.monotonic() + TICK_SECONDS
        while (status := self.torchrun.poll()) is None:
            try:
                self.torchrun.wait(POLL_SECONDS)
                continue
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if now >= self._kill_at:
                self.kill()
            elif stop is not None and not self.stopped_by and stop():
                self.ask_to_stop(signal.SIGTERM)
            if on_tick is not None and now >= next_tick and not self.stopped_by:
                on_tick()
                next_tick = time.monotonic() + TICK_SECONDS
        return status

    def ask_to_stop(self, number: int) -> None:
        """First time: SIGTERM, so that workers write a checkpoint. Again: no more patience."""
        self._kill_at = 0.0 if self.stopped_by else time.monotonic() + self.grace_seconds
        self.stopped_by = self.stopped_by or number
        self.torchrun.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for torchrun and everything that carries our mark; returns when none of it runs."""
        if self.torchrun.poll() is None:
            os.killpg(self.torchrun.pid, signal.SIGKILL)
            self.torchrun.wait()
        kill_marked(MARK, self.token)


def _start(
    module: str,
    arguments: Sequence[str],
    processes: int,
    threads: int,
    log: BinaryIO,
    extra: Mapping[str, str],
    token: str,
    nodes: tuple[Nodes, str] | None,
) -> subprocess.Popen[bytes]:
    shim = [sys.executable, "-I", "-S", str(SHIM), str(os.getpid())]
    # Port 0: torchrun takes a free one and tells its workers, so that no two runs meet on one port.
    here = ("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", f"--rdzv-id={token}")
    meeting = nodes[0].torchrun(nodes[1], settings().timeout) if nodes else [*here, "--local-addr=127.0.0.1"]
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", *meeting),
        *(f"--nproc-per-node={processes}", "--max-restarts=0", "--monitor-interval=0.2"),
        *(f"--shutdown-timeout={int(GRACE_SECONDS)}", "-m", module, *arguments),
    ]
    variables = inherited()
    variables.update({name: str(threads) for name in THREAD_VARIABLES})
    interface = nodes[0].interface() if nodes else "lo" if LINUX else "lo0"
    if interface and "GLOO_SOCKET_IFNAME" not in variables:
        # Else gloo looks up this machine's own name, which on many laptops has no address.
        variables["GLOO_SOCKET_IFNAME"] = interface
        if nodes:
            variables.setdefault("NCCL_SOCKET_IFNAME", interface)
    variables.update(PYTHONUNBUFFERED="1", **{PARENTS: str(Process.current()), MARK: token})
    variables.update(extra)
    return subprocess.Popen(
        [*shim, *torchrun],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=variables,
        start_new_session=True,
    )
