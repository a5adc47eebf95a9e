"""The first process of a TrainJob's containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

INIT = [sys.executable, "-m", "sida.process.init"]


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_it_ends_as_its_command_did(script: str, status: int) -> None:
    assert subprocess.run([*INIT, "sh", "-c", script], check=False).returncode == status


def test_a_signal_reaches_a_command_that_does_not_handle_it_yet() -> None:
    with subprocess.Popen([*INIT, "sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE, text=True) as init:
        assert init.stdout is not None and init.stdout.readline() == "up\n"
        began = time.monotonic()
        init.terminate()
        assert init.wait(10) == 143
        assert time.monotonic() - began < 5


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="makes a PID namespace")
def test_as_the_first_process_it_is_not_deaf() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *INIT, "sh", "-c", "echo up; sleep 60"]
    if subprocess.run([*command[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as unshare:
        assert unshare.stdout is not None and unshare.stdout.readline() == "up\n"
        children = f"/proc/{unshare.pid}/task/{unshare.pid}/children"
        with open(children, encoding="utf-8") as file:
            first = int(file.read().split()[0])
        os.kill(first, signal.SIGTERM)
        assert unshare.wait(10) == 143
