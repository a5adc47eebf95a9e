"""Worker processes end as they should, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sida.errors import Fenced, SidaError, Unavailable, UserError
from sida.launch.base import Stopped, Work
from sida.launch.local import MARK, LocalLauncher
from sida.process.identity import Process
from sida.process.marked import marked

MODULE = "tests.launch.heartbeat"
LAUNCH = """
import sys
from pathlib import Path
from sida.launch.base import Stopped
from sida.launch.local import LocalLauncher
from tests.launch.test_local import MODULE, work_in
folder = Path(sys.argv[1])
launcher = LocalLauncher(folder / "log", module=MODULE)
launcher._token = "test-" + folder.name
try:
    launcher.run(work_in(folder, "beat"))
except Stopped:
    sys.exit(143)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kill -9 is watched through /proc")


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def beats(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("beats-*"))


def work_in(folder: Path, mode: str, check: Callable[[], None] = lambda: None) -> Work:
    return Work(
        step="beat",
        job=f"{mode}:{folder}",
        processes=2,
        threads=1,
        log=folder / "log",
        check=check,
        error=lambda: None,
    )


def run(folder: Path, mode: str, check: Callable[[], None] = lambda: None) -> None:
    LocalLauncher(folder / "log", module=MODULE).run(work_in(folder, mode, check))


class Launched:
    """A launcher in a process of its own, and its two workers, all beating."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, f"test-{folder.name}"
        self.launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, str(folder)], stderr=subprocess.PIPE)
        until(lambda: len(list(folder.glob("beats-*"))) == 2)
        self.workers = [int(path.read_text().split()[0]) for path in sorted(folder.glob("beats-*"))]

    def assert_all_gone(self) -> str:
        """What the launcher said on stderr."""
        until(lambda: not marked(MARK, self.mark), seconds=8.0)
        said = self.launcher.communicate(timeout=8.0)[1].decode()
        size = beats(self.folder)
        time.sleep(0.5)
        assert beats(self.folder) == size
        return said


def test_when_the_launcher_is_killed_no_process_survives(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    launched.launcher.kill()
    launched.assert_all_gone()


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_worker_is_killed_no_process_survives_and_the_error_says_so(tmp_path: Path, rank: int) -> None:
    launched = Launched(tmp_path)
    os.kill(launched.workers[rank], signal.SIGKILL)
    assert "a worker was killed by SIGKILL" in launched.assert_all_gone()


@pytest.mark.parametrize("heard", [True, False])
def test_what_workers_have_for_people_is_passed_on_where_nobody_reads_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], heard: bool
) -> None:
    if heard:
        monkeypatch.delenv("SIDA_EVENTS", raising=False)
    else:
        monkeypatch.setenv("SIDA_EVENTS", str(tmp_path / "events"))
    (tmp_path / "log").write_text("beat: of an earlier start\n")
    run(tmp_path, "say", lambda: (tmp_path / "enough").touch())
    assert capsys.readouterr().err == ("beat: 5 of 10 images (50%)\n" if heard else "")


def test_sigterm_to_the_launcher_ends_the_workers_and_is_told_as_a_stop(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    launched.launcher.terminate()
    launched.assert_all_gone()
    assert launched.launcher.returncode == 143


def test_a_worker_that_starts_after_its_launcher_died_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    parents = str(Process.of(gone.pid))
    gone.wait()
    worker = subprocess.run(
        [sys.executable, "-c", "from sida.process.parent import die_with_parent as d; d(); print('works on')"],
        env={**os.environ, "SIDA_PARENTS": parents},
        capture_output=True,
    )
    assert worker.returncode == 75 and worker.stdout == b""


def sockets_of(processes: list[psutil.Process]) -> list[Any]:
    """Sockets at which processes can be reached."""
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    return [socket for socket in sockets if socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]


def listening_while_at_work(folder: Path, processes: int) -> set[str]:
    """Addresses at which the whole tree of a job's processes can be reached."""
    before = {socket.laddr for socket in sockets_of([psutil.Process(), *psutil.Process().children(recursive=True)])}
    launcher = LocalLauncher(folder / "log", module=MODULE)
    thread = threading.Thread(target=launcher.run, args=[work_in(folder, "talk")])
    thread.start()
    try:
        until(lambda: len(list(folder.glob("sum-*"))) == processes, seconds=60.0)
        tree = [psutil.Process(), *psutil.Process().children(recursive=True), *marked(MARK, launcher._token)]
        return {socket.laddr.ip for socket in sockets_of(tree) if socket.laddr not in before}
    finally:
        (folder / "enough").touch()
        thread.join(60.0)


def test_while_processes_talk_nothing_listens_beyond_the_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")  # of a cluster's shell: not for processes of one machine
    assert listening_while_at_work(tmp_path, 2) == {"127.0.0.1"}
    assert (tmp_path / "sum-0").read_text() == str([2.0] * 4)


def test_a_job_of_one_process_listens_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_WORKERS", "1")
    assert listening_while_at_work(tmp_path, 1) == set()


def test_a_worker_without_shared_memory_is_told_what_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(SidaError, match="a worker was killed by SIGBUS: is /dev/shm large enough"):
        run(tmp_path, "bus")


def test_workers_are_told_threads_and_address(tmp_path: Path) -> None:
    run(tmp_path, "report")
    assert (tmp_path / "environment-1").read_text().split() == ["1", "127.0.0.1", "2"]


def test_the_error_is_the_workers_own_last_line_with_the_path_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(SidaError) as caught:
        run(tmp_path, "fail")
    assert "ValueError: the noise level must be positive" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_worker_that_ends_with_status_2_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipe digits has no teacher: add one"):
        run(tmp_path, "mistake")


def test_a_worker_that_waited_in_vain_for_a_store_is_told_from_one_that_failed(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot reach http://store") as caught:
        run(tmp_path, "away")
    assert caught.value.exit_code == 75


def test_what_on_tick_raises_ends_the_workers_and_passes_on(tmp_path: Path) -> None:
    def fenced() -> None:
        if beats(tmp_path):
            raise Fenced("another writer took over")

    with pytest.raises(Fenced):
        run(tmp_path, "beat", check=fenced)
    size = beats(tmp_path)
    time.sleep(0.3)
    assert beats(tmp_path) == size


def test_stop_ends_workers_that_were_started_from_another_thread(tmp_path: Path) -> None:
    launcher, outcomes = LocalLauncher(tmp_path / "log", module=MODULE), []

    def work() -> None:
        try:
            launcher.run(work_in(tmp_path, "beat"))
        except Stopped as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: beats(tmp_path) > 0)
    launcher.stop()
    thread.join(15.0)
    assert outcomes == ["beat: stopped on request; run again to continue from the last checkpoint"]


def test_processes_that_workers_left_behind_are_ended(tmp_path: Path) -> None:
    run(tmp_path, "helper")
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            assert b"time.sleep(60)" not in command
