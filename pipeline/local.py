"""Run a plan on this machine: kfp's local runner in a child process, the terminal in our hands.

    sida (draws)  -->  pipeline.kfp_host (kfp.local)  -->  one process per step  -->  worker processes

A run's folder holds ``log.txt`` (what kfp and the steps print), ``events.jsonl`` (what the steps report), ``plan.json``, kfp's
``outputs`` (manifests, a few KB each) and, while it lasts, temporary files. Ctrl-C and SIGTERM reach everything below; so does our
own death, however sudden, because each process ends with those above it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.display import Display
from pipeline.following import POLL_SECONDS, Following
from pipeline.kfp_host import STOP_FILE
from pipeline.plan import Plan
from sida.disk import unsaid
from sida.printing import one_line
from sida.process.identity import Process
from sida.process.marked import kill_marked
from sida.process.parent import PARENTS
from sida.process.scratch import hold, let_go, remove_abandoned
from sida.process.signals import on_stop
from sida.settings import environment as inherited
from sida.settings import settings

ROOT = Path(__file__).resolve().parent.parent
SLACK_SECONDS = 15.0  # for the steps to end, once their workers had SIDA_GRACE to write a checkpoint


@dataclass
class Outcome:
    """Outcome of a run: status 0 with all steps, or a line for the user."""

    folder: Path
    status: int = 0
    message: str = ""
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)  # step_finished events

    def manifest(self, step: str) -> str:
        """Return the address of a step's result."""
        return str(next(event["manifest"] for event in self.steps if event["step"] == step))


def run(plan: Plan, display: Display, *, wait: float | None = None, components: str = "components") -> Outcome:
    """Run a plan to its end, or until the user stops it. Raises OSError when the run's folder cannot be written.

    ``wait``: seconds to wait for a key that another run is making (default: SIDA_LEASE_WAIT).
    """
    started = time.time()
    signals: list[int] = []  # those that ask us to stop
    with on_stop(signals.append, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        local_run = _LocalRun(plan, display, wait, components)
        try:
            status = local_run.follow(signals)
        finally:
            local_run.end()
    outcome = local_run.outcome
    outcome.seconds = round(time.time() - started, 1)
    if signals:
        number = signals[0]
        outcome.status = 128 + number
        outcome.message = "stopped; run the same command again to continue from the last checkpoint"
    elif status:
        local_run.explain()
    if outcome.status == 2 and not any(event["state"] == "ran" for event in outcome.steps):
        shutil.rmtree(outcome.folder, ignore_errors=True)  # a mistake of the user leaves nothing behind
    return outcome


class _LocalRun:
    """The child process, its folder, and how far we have read its events."""

    def __init__(self, plan: Plan, display: Display, wait: float | None, components: str) -> None:
        here = settings()
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{plan.recipe}-{secrets.token_hex(2)}"
        self.folder = here.runs / name
        self.events = self.folder / "events.jsonl"
        self.log = self.folder / "log.txt"
        self.display = display
        self.outcome = Outcome(self.folder)
        self.errors: list[dict[str, Any]] = []
        self._at_work = ""
        self.folder.mkdir(parents=True)
        remove_abandoned()  # what killed runs left
        self._held = hold(self.folder / "tmp")
        (self.folder / "plan.json").write_text(plan.to_json())
        self.events.touch()
        variables = inherited() | {
            "SIDA_EVENTS": str(self.events),
            "SIDA_RUN": name,
            "SIDA_STORE": here.store,
            "SIDA_RUNS": str(here.runs),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited().get("PYTHONPATH", "")])),
            "PYTHONUNBUFFERED": "1",
            PARENTS: str(Process.current()),
        }
        if wait is not None:
            variables["SIDA_LEASE_WAIT"] = str(wait)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "pipeline.kfp_host", str(self.folder), components],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
                pass_fds=[self._held],
            )
        self._following = Following(self.events, display, self.log)

    def follow(self, signals: list[int]) -> int:
        """Draw until the child has ended; return its status. Pass the user's wish to stop on, once; the second time kills."""
        heard, kill_at = 0, float("inf")
        while (status := self.child.poll()) is None:
            if len(signals) > heard:
                kill_at = 0.0 if heard else time.monotonic() + settings().grace + SLACK_SECONDS
                if not heard:
                    self.display.say("stopping: waiting for the step to write its checkpoint (again: kill it)")
                    (self.folder / STOP_FILE).touch()
                    self._send(signal.SIGTERM)
                heard = len(signals)
            if time.monotonic() >= kill_at:
                self._send(signal.SIGKILL)
            self._draw()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(POLL_SECONDS)
        self._draw()
        return status

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def _draw(self) -> None:
        for event in self._following.draw():
            match event["event"]:
                case "step_started":
                    self._at_work = event["step"]
                case "step_finished":
                    self.outcome.steps.append(event)
                    self._at_work = ""
                case "error":
                    self.errors.append(event)

    def end(self) -> None:
        """Leave no process and no temporary file; also when we ourselves fail."""
        self._send(signal.SIGKILL)
        self.child.wait()
        kill_marked("SIDA_EVENTS", str(self.events))  # workers in sessions of their own, whose starter was killed
        let_go(self.folder / "tmp", self._held)

    def explain(self) -> None:
        """Put into the outcome why it failed, in a line: the first error that was reported, else the end of the log."""
        outcome = self.outcome
        if self.errors:
            first = self.errors[0]
            outcome.status, message = int(first["exit_code"]), f"{first['step']}: {first['message']}"
        elif full := unsaid(self.folder):
            outcome.status, message = full.exit_code, str(full)
        else:
            outcome.status = 1
            message = f"{self._at_work or 'the run'} failed: {_last_exception(self.log)}"
        if outcome.status != 2 and "(log: " not in message:
            message += f" (log: {self.log})"
        outcome.message = one_line(message)


def _last_exception(log: Path) -> str:
    """Return the last line of the log that names an exception, kfp's own remark aside; else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.partition(":")[0].isidentifier() and "Error" in line.partition(":")[0]]
    return one_line((named or lines or ["it left no word"])[-1])
