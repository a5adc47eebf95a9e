"""A preStop hook for Kubeflow Pipelines' pods: ``python -m sida.process.leave`` asks the step to end, and waits until it has.

Kubeflow's launcher-v2, which starts the step, dies of the SIGTERM that a pod gets when it is taken off its node, and the container
with it, before a step can write a checkpoint. A hook comes before that signal (docs/kubeflow.md).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

EXECUTOR = "kfp.dsl.executor_main"  # of a step's process, as Kubeflow Pipelines starts it
POLL_SECONDS = 0.2
PROCESSES = Path("/proc")


def steps() -> list[int]:
    """Return the steps' processes in this container. A shell whose script names the executor is none."""
    found = []
    for folder in PROCESSES.iterdir():
        with suppress(OSError):  # it has ended
            words = (
                (folder / "cmdline").read_bytes().decode(errors="replace").split("\0") if folder.name.isdigit() else []
            )
            if "-m" in words and words[words.index("-m") + 1 :][:1] == [EXECUTOR]:
                found.append(int(folder.name))
    return found


def main() -> int:
    """Ask, then wait; how long is for the pod's grace to say."""
    for pid in steps():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while steps():
        time.sleep(POLL_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
