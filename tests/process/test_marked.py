"""Processes are found by a variable in their environment, whoever started them and wherever they went."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from sida.process.marked import kill_marked, marked

VARIABLE = "SIDA_TEST_MARK"
PARENT = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
sleeper = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, start_new_session=True)
print(sleeper.pid, flush=True)
"""


def test_what_a_process_left_behind_in_a_session_of_its_own_is_found_and_killed_and_nothing_else() -> None:
    value = f"test-{os.getpid()}"
    environment = os.environ | {VARIABLE: value}
    done = subprocess.run(
        [sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        deadline = time.monotonic() + 10.0
        while [process.pid for process in marked(VARIABLE, value)] != [int(done.stdout)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill_marked(VARIABLE, value)
        assert not marked(VARIABLE, value)
        assert not psutil.pid_exists(int(done.stdout)) or psutil.Process(int(done.stdout)).status() == "zombie"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
