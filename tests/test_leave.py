"""The preStop hook of Kubeflow Pipelines' pods: the step ends well, and nothing else is disturbed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sida.process import leave

STEP = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(143)))
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_the_step_is_asked_and_waited_for_and_the_shell_around_it_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ours" / "executor.py"
    package.parent.mkdir()
    package.write_text(STEP)
    (package.parent / "__init__.py").touch()
    monkeypatch.setattr(leave, "EXECUTOR", "ours.executor")
    script = f'"{sys.executable}" -m ours.executor --function_to_execute=x; echo $?'
    with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None and shell.stdout.readline() == "up\n"
        began = time.monotonic()
        assert leave.main() == 0
        assert time.monotonic() - began >= 0.4
        assert shell.stdout.read() == "143\n"
    assert leave.steps() == []
