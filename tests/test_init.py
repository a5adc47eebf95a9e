"""The first process of a container hears that it is to end."""

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


COMMAND_LINE = """
import sys, time, types
from pipeline import __main__ as line
verb = types.SimpleNamespace(ARGUMENTS=(), main=lambda args: print("up", flush=True) or time.sleep(60))
sys.modules["pipeline.commands.list"] = verb
sys.argv[1:] = ["list"]
sys.exit(line.main())
"""


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="makes a PID namespace")
@pytest.mark.parametrize(
    "first",
    [
        pytest.param([*INIT, "sh", "-c", "echo up; sleep 60"], id="of a TrainJob's pod"),
        pytest.param([sys.executable, "-c", COMMAND_LINE], id="the command line, in other pods"),
    ],
)
def test_as_the_first_process_of_a_container_it_is_not_deaf(first: list[str]) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *first]
    if subprocess.run([*command[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as unshare:
        assert unshare.stdout is not None and unshare.stdout.readline() == "up\n"
        children = f"/proc/{unshare.pid}/task/{unshare.pid}/children"
        with open(children, encoding="utf-8") as file:
            first = int(file.read().split()[0])
        os.kill(first, signal.SIGTERM)
        assert unshare.wait(10) == 143
