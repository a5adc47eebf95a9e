"""Runs under kfp's local runner, seen from outside: the terminal, exit statuses, and no process left behind."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 30.0


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a run of the toy steps; a failing test leaves none behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        started.append(_start(tmp_path, *arguments, stderr=stderr))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _start(runs: Path, *arguments: str, stderr: int) -> subprocess.Popen[str]:
    environment = dict(os.environ, SIDA_RUNS=str(runs), PYTHONPATH=f"{ROOT}:{HERE}", NO_COLOR="1", TERM="xterm")
    return subprocess.Popen(
        [sys.executable, str(HERE / "drive.py"), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return path.read_text()


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def assert_all_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(running, pids)):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if running(pid)]}"
        time.sleep(0.05)


def the_run(runs: Path) -> Path:
    (folder,) = runs.glob("*-toy-*")
    return folder


def test_a_run_prints_one_line_per_step_and_keeps_what_kfp_says_in_its_log(tmp_path: Path, start: Start) -> None:
    process = start("quick")
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    assert [line.split()[:2] for line in err.splitlines()] == [["prepare_data", "reused"], ["teach", "reused"]]
    assert [event["step"] for event in json.loads(out)] == ["prepare_data", "teach"]
    folder = the_run(tmp_path)
    assert "a line for the log" in (folder / "log.txt").read_text()
    assert not list(folder.glob("tmp*"))


def test_quiet_says_nothing_but_errors_and_verbose_shows_the_log_as_it_comes(tmp_path: Path, start: Start) -> None:
    _, err = start("quick", "-q").communicate(timeout=PATIENCE_SECONDS)
    assert err == ""
    _, err = start("mistake", "-q").communicate(timeout=PATIENCE_SECONDS)
    assert err == "error: teach: the teacher file is missing: put it there\n"
    _, err = start("quick", "-v").communicate(timeout=PATIENCE_SECONDS)
    assert "a line for the log" in err and "Task 'teach' finished with status SUCCESS" in err
    assert ["teach", "reused"] in [line.split()[:2] for line in err.splitlines()]
    assert "\x1b" not in err, "kfp's log has colours, a file has none"


def test_forcing_a_step_makes_a_new_attempt_of_it_and_of_all_after_it(tmp_path: Path, start: Start) -> None:
    out, _ = start("quick", "prepare_data").communicate(timeout=PATIENCE_SECONDS)
    assert [event["state"] for event in json.loads(out)] == ["ran", "ran"]


def test_on_a_terminal_the_step_at_work_has_a_bar_and_leaves_one_line(tmp_path: Path, start: Start) -> None:
    ours, theirs = pty.openpty()
    process = start("long", stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
    process.communicate(timeout=PATIENCE_SECONDS)
    os.close(ours)
    text = seen.decode()
    assert process.returncode == 0
    assert "teach" in text and "/10 images" in text and "loss" in text and "reused" in text
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[0-9;]*m", text), "NO_COLOR was set"


def test_a_mistake_of_the_user_is_one_line_with_status_2_and_leaves_no_run_behind(tmp_path: Path, start: Start) -> None:
    process = start("mistake")
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (2, "")
    assert err.splitlines()[1:] == ["error: teach: the teacher file is missing: put it there"]
    assert not list(tmp_path.glob("*-toy-*"))


def test_another_failure_is_one_line_with_status_1_that_names_the_log(tmp_path: Path, start: Start) -> None:
    process = start("crash")
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    log = the_run(tmp_path) / "log.txt"
    assert process.returncode == 1
    assert err.splitlines()[1:] == [f"error: teach failed: ZeroDivisionError: by nought (log: {log})"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_lets_the_step_write_its_checkpoint_and_leaves_no_process(
    tmp_path: Path, start: Start, number: int, status: int
) -> None:
    process = start("slow")
    pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == status
    assert err.splitlines()[-1] == "stopped; run the same command again to continue from the last checkpoint"
    assert (tmp_path / "checkpoint").read_text() == "written"
    assert not any(map(running, pids))


def test_a_second_ctrl_c_kills_a_step_that_does_not_listen(tmp_path: Path, start: Start) -> None:
    process = start("deaf")
    pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None and running(pids[0])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert not any(map(running, pids))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the parent-death signal")
def test_killing_the_command_with_minus_9_ends_kfp_and_the_step(tmp_path: Path, start: Start) -> None:
    process = start("deaf")
    step, kfp, worker = (int(pid) for pid in wait_for(tmp_path / "pids").split())
    try:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        assert_all_end([step, kfp])
    finally:
        os.kill(worker, signal.SIGKILL)  # a real worker watches its parents (tests/launch); this toy does not
    left = the_run(tmp_path)
    assert list(left.glob("tmp*"))
    start("quick").communicate(timeout=PATIENCE_SECONDS)
    assert left.exists() and not list(left.glob("tmp*"))  # the next run has removed its temporary files


def test_killing_kfp_with_minus_9_is_a_failure_in_one_line_that_leaves_no_process(tmp_path: Path, start: Start) -> None:
    process = start("deaf")
    step, kfp, worker = (int(pid) for pid in wait_for(tmp_path / "pids").split())
    os.kill(kfp, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: teach failed: ")
    assert not any(map(running, [step, kfp, worker]))
