"""Of all that workers and torch say when a job fails, the user is told the first cause."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from sida import disk
from sida.disk import full_disk
from sida.errors import SidaError, UserError
from sida.launch.worker_error import TOLD, WorkerError, explain, first_told, tell
from sida.process.group import Ended
from tests.conftest import ROOT

GLOO = "[rank1]: RuntimeError: [../third_party/gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:3\n"
FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


def write(place: Path, text: str) -> Path:
    log = place / "log"
    log.write_text(text)
    return log


def error_of(error: Exception) -> WorkerError:
    return WorkerError.of(error, restart=0)


LOST = error_of(RuntimeError("Connection closed by peer"))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(FULL),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError("4096 requested and 512 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_a_full_disk_is_the_users_to_mend_whoever_could_not_write(error: Exception) -> None:
    told = error_of(error)
    assert told.exit_code == 2
    assert told.message.startswith("disk full while writing /")
    assert told.message.endswith(": free space or set TMPDIR or SIDA_RUNS")


def test_a_full_disk_is_found_behind_the_error_that_it_led_to() -> None:
    later = RuntimeError("the writer has failed")
    later.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    assert "disk full while writing /data/x" in str(full_disk(later))
    assert "disk full while writing the output" in str(full_disk(SafetensorError(FULL), "the output"))
    assert full_disk(ValueError("no space")) is None


def test_a_disk_that_is_too_full_for_words_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk.unsaid(tmp_path) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=8192))
    assert str(disk.unsaid(tmp_path)) == f"disk full while writing in {tmp_path}: free space or set SIDA_RUNS"


def test_an_error_of_ours_that_names_the_place_stays_as_it_is() -> None:
    named = UserError("disk full while writing file:///store/x: free space or set SIDA_STORE")
    named.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error_of(named).message == str(named)


def test_what_a_worker_tells_first_is_heard_without_disk_or_store(monkeypatch: pytest.MonkeyPatch) -> None:
    hears, tells = os.pipe()
    assert first_told(hears) is None
    monkeypatch.setenv(TOLD, str(tells))
    full = error_of(SafetensorError(FULL))
    tell(full)
    tell(LOST)
    assert first_told(hears) == full
    os.close(hears)
    os.close(tells)


def test_what_a_user_can_mend_comes_before_processes_that_were_lost_by_it(tmp_path: Path) -> None:
    log = write(tmp_path, GLOO)
    full = error_of(SafetensorError(FULL))
    assert explain(log, 0, [None, LOST, full], [Ended(1, 1), Ended(0, 2)]) == (full.message, 2)


def test_a_signal_comes_before_those_who_lost_the_killed_one(tmp_path: Path) -> None:
    log = write(tmp_path, GLOO)
    cause, code = explain(log, 0, [LOST], [Ended(0, -7), Ended(1, 1)])
    assert cause == "a worker was killed by SIGBUS: is /dev/shm large enough?" and code == -7


def test_of_several_tracebacks_that_of_the_first_to_fail_is_told_without_its_rank(tmp_path: Path) -> None:
    torch = "[W1129 10:14:43.123 TCPStore.cpp:106] [c10d] sendBytes failed\n"
    log = write(tmp_path, f"[rank0]: Traceback\n[rank0]:   File x\n[rank0]: ValueError: sigma\n{GLOO}{torch}")
    assert explain(log, 0, [], [Ended(0, 1), Ended(1, 1)]) == ("ValueError: sigma", 1)
    assert explain(log, 0, [], [Ended(1, 1), Ended(0, 1)])[0].startswith("RuntimeError: [../third_party/gloo")


def test_a_users_mistake_is_not_looked_for_in_tracebacks(tmp_path: Path) -> None:
    log = write(tmp_path, f"recipe digits has no teacher: add one\n{GLOO}")
    assert explain(log, 0, [], [Ended(1, 1), Ended(0, 2)]) == ("recipe digits has no teacher: add one", 2)


def test_only_errors_of_ours_keep_their_status() -> None:
    assert [error_of(each).exit_code for each in (UserError("x"), SidaError("x"), ValueError("x"))] == [2, 1, 1]


@pytest.mark.parametrize("key", ["jobs/score/" + "a" * 64 + "/1/spec.json", "jobs/a\nb/1/1/spec.json"])
def test_a_worker_without_a_job_says_so_in_a_line(key: str, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sida.worker", "--job", key], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2  # the launcher's line and our own
    assert "check --job and SIDA_STORE" in done.stderr or "is not an object key" in done.stderr
