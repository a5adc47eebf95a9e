"""`status` and `logs` without a profile: what the store knows of runs here, or of any that it holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sida import ending, layout, records
from sida.errors import Corrupt
from sida.process.identity import Process, machine_id
from sida.settings import settings
from sida.steps.log import log_key
from sida.stores import ObjectStore, open_store
from tests.pipeline.command import Command
from tests.tracking.runs import Made, recipe


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def begin(run: str, step: str, driver: str = "") -> records.StepCall:
    call = records.begin(run, step, 1, {"recipe": "digits"})
    assert call is not None
    call = call.model_copy(update={"driver": driver, "started": f"2026-11-28T14:0{len(run)}:00+00:00"})
    open_store(settings().store).put(layout.call_key(run, step), call.model_dump_json().encode())
    return call


def dead() -> str:
    """A driver that is no more."""
    with subprocess.Popen(["sleep", "600"]) as process:
        driver = f"{Process.of(process.pid)} {machine_id()}"
        process.kill()
    return driver


def test_without_a_run_the_newest_are_listed_with_how_each_stands(command: Command, store: ObjectStore) -> None:
    assert f"no runs in {store.address}" in command("status").out
    records.failed(begin("a", "fetch_teacher"), "no such file")
    begin("bb", "distill")
    records.finished(begin("ccc", "report"), "file:///nowhere/steps/report/ab/1.json", "d" * 64, reused=True)
    begin("dddd", "distill", dead())
    said = command("status")
    assert [line.split()[0] for line in said.out.splitlines()] == ["dddd", "ccc", "bb", "a"]
    killed, good, going, bad = said.out.splitlines()
    assert "FAILED" in killed and "killed, or the machine went down" in killed
    assert good.endswith("SUCCEEDED")
    assert going.endswith("distill at work")
    assert bad.endswith("FAILED           fetch_teacher: no such file")
    told = json.loads(command("status", "--json", "--last", "3").out)
    assert [(run["run"], run["state"]) for run in told["runs"]] == [
        ("dddd", "FAILED"),
        ("ccc", "SUCCEEDED"),
        ("bb", None),
    ]


def test_an_unknown_run_is_one_line_that_says_how_to_list_them(command: Command, store: ObjectStore) -> None:
    line = command("status", "nobody").mistake()
    assert "no run 'nobody'" in line and "`status` lists" in line


def test_a_run_that_was_killed_whole_is_settled_by_whoever_looks(command: Command, store: ObjectStore) -> None:
    begin("r-1", "distill", dead())
    said = command("status", "r-1")
    assert said.status == 1 and "r-1: FAILED: killed, or the machine went down" in said.out
    assert records.end_of(store, "r-1") is not None


def test_the_next_run_settles_those_that_were_killed_before_it(store: ObjectStore, place: Path) -> None:
    for run, driver in (("r-1", dead()), ("r-2", f"{Process.current()} {machine_id()}"), ("r-3", dead())):
        begin(run, "distill", driver)
        (place / "runs" / run).mkdir(parents=True)
        (place / "runs" / run / "plan.json").write_text("{}")
    assert ending.settle_earlier(store, place / "runs", but="r-3") == ["r-1"]
    assert records.end_of(store, "r-2") is None


def test_a_step_s_own_log_is_shown_from_the_store_where_this_machine_has_none(
    command: Command, store: ObjectStore, place: Path
) -> None:
    begin("r-1", "fetch_teacher")
    assert "no log in file://" in command("logs", "r-1", "fetch-teacher").mistake()
    (place / "runs" / "r-1").mkdir(parents=True)
    (place / "runs" / "r-1" / "log.txt").write_text("of the whole run\n")
    assert command("logs", "r-1", "fetch-teacher").out == "of the whole run\n"
    store.put(log_key("r-1", "fetch_teacher"), b"of the step\n")
    assert command("logs", "r-1", "fetch-teacher").out == "of the step\n"
    (place / "runs" / "logs").mkdir()
    (place / "runs" / "logs" / "fetch_teacher-abc-1.log").write_text("of its workers\n")
    assert command("logs", "r-1", "fetch-teacher").out == "of its workers\n"
    assert "no run 'nobody'" in command("logs", "nobody", "score").mistake()


def test_a_result_that_a_run_did_not_record_is_not_told_as_its_own(command: Command, store: ObjectStore) -> None:
    Made(store, recipe(), (0.6, 0.61, 0.59)).write("mine")
    call = records.call_of(store, "mine", "compare")
    assert set(records.manifests(store, records.calls(store, "mine"))) > {"compare", "score"}
    other = call.model_copy(update={"digest": "0" * 64})
    store.put(layout.call_key("mine", "compare"), other.model_dump_json().encode())
    with pytest.raises(Corrupt, match="is another result than run mine recorded"):
        records.manifests(store, {"compare": other})
    assert "left out" in command("compare").err
    end = ending.end_run("mine", "digits", ending.SUCCEEDED, 0, "")
    assert (end.standing, end.regressed) == ("", False)
