"""The first process of a container: starts a command, passes signals on to it, and ends as it did.

    python -m sida.process.init COMMAND [ARGUMENT ...]

Linux spares the first process every signal that it does not handle. torchrun handles SIGTERM only once its workers run; until then,
as the first process, it would be deaf, and a pod that is to end would last for all of its grace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(command: list[str]) -> int:
    """Run the command; return its exit status, 128 + N for signal N. Processes whose parents have ended are reaped."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that came before the command was started

    def pass_on(number: int, frame: FrameType | None) -> None:
        early.append(number) if child is None else child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    child = subprocess.Popen(command)
    for missed in early:
        child.send_signal(missed)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            child.returncode = code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
