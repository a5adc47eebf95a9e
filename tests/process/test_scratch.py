"""Temporary folders: gone at the end, gone after a kill, never taken from a living process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sida.process.scratch import remove_abandoned, scratch_folder
from tests.conftest import ROOT

CHILD = """
import sys
from sida.process.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, for this process and its children."""
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


def child(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    made = subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None
    return made, Path(made.stdout.readline().strip())


def ended(made: subprocess.Popen[str], kill: bool) -> None:
    if kill:
        made.kill()
    made.communicate()


def test_a_folder_is_gone_after_its_block_whatever_ends_it(temporary: Path) -> None:
    def fail() -> None:
        with scratch_folder() as folder:
            (folder / "file").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(temporary.iterdir()) == []


def test_what_a_kill_left_goes_with_the_next_folder_and_what_is_at_work_stays(temporary: Path) -> None:
    (killed, left), (living, used) = child(temporary), child(temporary)
    ended(killed, kill=True)
    assert (left / "large").exists()
    assert remove_abandoned(dry_run=True) == [left] and left.exists()
    with scratch_folder() as mine:
        assert not left.exists()
        assert (used / "large").exists() and mine.exists()
    ended(living, kill=False)
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_of_the_pipeline_left_in_its_own_folder_goes_too(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary / "runs" / "20260101-000000-digits-abcd" / "tmp"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    killed, left = child(folder)
    ended(killed, kill=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    assert left.parent == folder and remove_abandoned() == [left]
    assert list(folder.iterdir()) == []


def test_a_link_or_a_file_that_is_not_ours_is_not_followed(temporary: Path) -> None:
    kept = temporary / "kept"
    kept.mkdir()
    (temporary / "sida-scratch-0.lock").symlink_to(kept)
    (temporary / "sida-scratch-1.lock").write_bytes(b"")
    (temporary / "sida-scratch-1").symlink_to(kept)
    remove_abandoned()
    assert kept.exists()
