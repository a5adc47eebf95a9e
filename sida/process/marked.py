"""Processes identified by a variable in their environment, whoever started them: it passes on to all of their children."""

from __future__ import annotations

import psutil

POLL_SECONDS = 0.05


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Return the processes of this user that run with ``variable`` set to ``value``."""
    return [process for process in psutil.process_iter() if _variables(process).get(variable) == value]


def kill_marked(variable: str, value: str) -> None:
    """Send SIGKILL to all of them; return when none runs."""
    while survivors := marked(variable, value):
        for process in survivors:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(survivors, timeout=POLL_SECONDS)


def _variables(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}  # it has ended, or belongs to another user
