"""The copy of a step's log that is kept in the store when the step ends.

Steps run in processes of their own here: pytest puts itself between Python and the two streams of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sida.settings import environment, settings
from sida.steps.log import LOG_BYTES, read_log
from sida.stores import open_store

RUN = "run-1"
STEP = """
import os, subprocess, sys
from types import SimpleNamespace
from sida.errors import UserError
from sida.manifests import TeacherResult
from sida.recipe import Recipe
from sida.steps import StepOutcome, StepRun, step
from sida.steps.execute import execute
from sida.steps.step import Reused

@step(version=1, sources=("errors.py",))
def toy(run: StepRun, recipe: Recipe) -> TeacherResult:
{body}
    made = SimpleNamespace(digest="d" * 64, to_json=lambda: b"{{}}")
    raise Reused(StepOutcome(made, "file:///nowhere/1.json", False))

execute(toy, SimpleNamespace(path="{place}/out", metadata={{}}), recipe="digits", run_id="{run}")
print("after", flush=True)
"""


def run_step(place: Path, body: str, run: str = RUN, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process that runs a step with this body."""
    code = STEP.format(body=textwrap.indent(textwrap.dedent(body), "    "), place=place, run=run)
    command = [sys.executable, "-W", "error", "-c", code]
    env = environment() | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def copy_of(name: str = "toy") -> str:
    return read_log(open_store(settings().store), RUN, name) or "there is none"


def test_what_a_step_and_its_children_write_goes_on_and_is_kept(place: Path) -> None:
    done = run_step(place, 'print("one"); subprocess.run(["echo", "two"]); print("three", file=sys.stderr)')
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"one", "two", "after"}
    assert done.stderr.startswith("three\ntoy: ran in ")
    copy = copy_of()
    assert {"one", "two", "three"} < set(copy.splitlines())
    assert "toy: ran in " in copy and "after" not in copy


def test_a_mistake_of_the_user_is_its_last_line(place: Path) -> None:
    done = run_step(place, 'print("reading"); raise UserError("teacher: another sha256: correct it")')
    assert (done.returncode, done.stderr) == (2, "toy: error: teacher: another sha256: correct it\n")
    assert copy_of() == "reading\ntoy: error: teacher: another sha256: correct it\n"


def test_an_unforeseen_error_leaves_its_traceback_here_and_there(place: Path) -> None:
    done = run_step(place, "1 / 0")
    for text in (done.stderr, copy_of()):
        assert text.count("Traceback (most recent call last)") == 1
        assert text.endswith("ZeroDivisionError: division by zero\n")


def test_where_events_are_read_the_copy_says_all_the_same_how_it_ended(place: Path) -> None:
    body = 'from sida import progress; print("one"); progress.note("toy", "two"); '
    done = run_step(place, body + 'raise UserError("no")', SIDA_EVENTS=str(place / "events.jsonl"))
    assert (done.returncode, done.stderr) == (2, "")
    assert sorted(copy_of().splitlines()) == ["one", "toy: error: no", "toy: two"]
    run_step(place, body, SIDA_EVENTS=str(place / "events.jsonl"))
    assert "toy: ran in" in copy_of()


def test_a_note_waits_for_the_end_of_the_line_that_is_being_written(place: Path) -> None:
    body = 'import sys, time; from sida import progress; sys.stdout.write("one "); sys.stdout.flush(); time.sleep(0.3)'
    run_step(place, body + '; progress.note("toy", "two"); print("line")', SIDA_EVENTS=str(place / "events.jsonl"))
    assert {"toy: two", "one line"} <= set(copy_of().splitlines())


def test_only_the_last_mebibyte_is_kept(place: Path) -> None:
    run_step(place, 'for number in range(40): print(f"{number:02}" + "x" * (1 << 16))')
    copy = copy_of()
    assert LOG_BYTES // 2 < len(copy) <= LOG_BYTES
    assert "\n39x" in copy and "\n03x" not in copy


def test_secrets_are_masked_in_the_copy(place: Path) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "s3cret-access-key", "SIDA_WEBHOOK": "https://hooks.test/s3cret"}
    text = "s3cret-access-key https://hooks.test/s3cret s3://u:s3cret@h/x https://h/x?X-Amz-Signature=s3cret&y=1 kept"
    done = run_step(place, f'print("{text}")', **secrets)
    assert text in done.stdout
    assert "s3cret" not in copy_of() and "kept" in copy_of()


def test_outside_of_a_run_nothing_is_kept(place: Path) -> None:
    assert run_step(place, "pass", run="").returncode == 0
    assert open_store(settings().store).list("runs/") == []


def test_a_store_that_cannot_be_written_does_not_fail_the_step(place: Path) -> None:
    (place / "file").write_text("no folder")
    code = f"""
from sida.steps.log import kept
with kept("{RUN}", "toy"):
    print("done")
"""
    env = environment() | {"SIDA_STORE": f"file://{place / 'file' / 'store'}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "its log is not kept: " in done.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os.abort()"])
def test_the_last_words_of_a_step_that_is_killed_are_passed_on(place: Path, end: str) -> None:
    done = run_step(place, f'os.write(2, b"last words\\n"); {end}')
    assert done.returncode in (-signal.SIGKILL, -signal.SIGABRT)
    assert done.stderr.startswith("last words\n")


def test_a_step_that_is_ended_by_sigterm_releases_its_lease_and_says_so(place: Path) -> None:
    body = """
    import signal
    run.claim({"a": 1})
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass
    """
    done = run_step(place, body)
    assert done.returncode == 143, done.stderr
    said = "toy: ended by SIGTERM: what was published is kept, the same step goes on from there\n"
    assert said in done.stderr and said in copy_of()
    store = open_store(settings().store)
    (lease,) = [key for key in store.list("leases/") if "/toy/" in key]
    assert json.loads(store.read(lease))["released"] is True


def test_a_signal_to_the_whole_group_does_not_silence_a_step_that_goes_on(place: Path) -> None:
    body = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("before", flush=True)
    os.killpg(0, signal.SIGTERM)
    print("checkpoint written")
    """
    code = STEP.format(body=textwrap.indent(textwrap.dedent(body), "    "), place=place, run=RUN)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert done.stdout == "before\ncheckpoint written\nafter\n"
    assert "checkpoint written" in copy_of()


def test_a_child_that_goes_on_writing_does_not_hold_the_step_up(place: Path) -> None:
    body = """
    from sida.steps import log as step_log
    step_log.DRAIN_SECONDS = 0.2
    subprocess.Popen(["sh", "-c", "echo first; sleep 2; echo later"], stdin=subprocess.DEVNULL).returncode = 0
    import time; time.sleep(0.5)
    """
    done = run_step(place, body)
    assert done.stdout.splitlines() == ["first", "after", "later"]
    assert "first" in copy_of() and "later" not in copy_of()


def test_a_component_run_alone_keeps_its_log_under_the_run_it_belongs_to(place: Path) -> None:
    command = [sys.executable, "-m", "components", "prepare_data", "--recipe=digits", f"--run-id={RUN}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dataset\tfile://")
    assert "prepare_data: ran in" in copy_of("prepare_data")
    assert os.listdir(place / "store" / "runs" / RUN / "logs") == ["prepare_data.txt"]
