"""How a run ended, by the steps' records, whatever word Kubeflow Pipelines hands its exit handler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.exit_handler import record_end
from sida import ending, records
from sida.errors import UserError
from sida.settings import settings
from sida.stores import ObjectStore, open_store

RUN = "0f3c5a3e-run"


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def begin(step: str, item: str = "") -> records.StepCall:
    call = records.begin(RUN, step, 1, {"recipe": "digits"}, item)
    assert call is not None
    return call


def done(*steps: str) -> None:
    for step in steps:
        records.finished(begin(step), f"file:///nowhere/steps/{step}/ab/1.json", "d" * 64, reused=False)


def exit_handler(said: str, message: str = "") -> records.RunEnd:
    """What it recorded; the words are those that a real Kubeflow Pipelines was seen to hand over."""
    status = SimpleNamespace(state=said, error_code=None, error_message=message or None)
    record_end.python_func(recipe="digits", run_id=RUN, status=status)
    end = records.end_of(open_store(settings().store), RUN)
    assert end is not None
    return end


def test_complete_is_kubeflow_s_word_for_success(store: ObjectStore) -> None:
    done("fetch_teacher", "report")
    end = exit_handler("COMPLETE")
    assert (end.state, end.message, end.sure) == ("SUCCEEDED", "", True)
    assert ending.ending_of(store, RUN) == ending.Ending("SUCCEEDED")


def test_a_failed_step_s_own_line_is_the_reason(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    done("prepare_data")
    records.failed(begin("fetch_teacher"), "its sha256 is another: correct it")
    end = exit_handler("FAILED")
    assert (end.state, end.message) == ("FAILED", "fetch_teacher: its sha256 is another: correct it")
    assert f"run {RUN}: FAILED fetch_teacher: its sha256 is another" in capsys.readouterr().out


def test_a_step_that_ran_too_long_timed_out(store: ObjectStore) -> None:
    records.failed(begin("distill"), "TrainJob work/x ran longer than 60 s", timed_out=True)
    assert exit_handler("FAILED").state == "TIMED OUT"


def test_a_run_that_somebody_cancelled_says_so_though_kubeflow_says_running(store: ObjectStore) -> None:
    done("fetch_teacher")
    begin("distill")
    assert ending.cancel(store, RUN, "by `cancel`")
    assert not ending.cancel(store, RUN, "seen in Kubeflow")  # once
    end = exit_handler("RUNNING")
    assert end.state == "CANCELLED" and "by `cancel`" in end.message


def test_a_step_that_is_torn_down_by_a_cancel_did_not_fail_by_itself(store: ObjectStore) -> None:
    call = begin("distill")
    ending.cancel(store, RUN, "by `cancel`")
    records.failed(call, "stopped on request")
    assert exit_handler("FAILED").state == "CANCELLED"


def test_a_run_that_had_failed_before_it_was_cancelled_failed(store: ObjectStore) -> None:
    records.failed(begin("distill"), "no space left")
    assert not ending.cancel(store, RUN, "by `cancel`")
    assert exit_handler("RUNNING").message == "distill: no space left"


@pytest.mark.parametrize(
    ("steps", "at_work", "words"),
    [
        ((), (), "before a step ran"),
        (("fetch_teacher", "score_teacher"), (), "after score_teacher, before the next step ran"),
        (("fetch_teacher",), ("distill",), "while distill was at work"),
    ],
)
def test_a_run_whose_driver_died_says_how_far_it_came_and_where_to_look(
    store: ObjectStore, steps: tuple[str, ...], at_work: tuple[str, ...], words: str
) -> None:
    done(*steps)
    for step in at_work:
        begin(step)
    end = exit_handler("RUNNING")
    assert (end.state, end.sure) == ("FAILED", False)
    assert words in end.message and "status RUN --profile" in end.message


def test_who_knows_the_reason_writes_it_over_a_guess_and_never_over_knowledge(store: ObjectStore) -> None:
    begin("distill")
    exit_handler("RUNNING")
    assert ending.settle(store, RUN, ending.Ending("FAILED", "distill: out of memory"))
    assert not ending.settle(store, RUN, ending.Ending("CANCELLED", "another opinion"))
    assert ending.ending_of(store, RUN) == ending.Ending("FAILED", "distill: out of memory")


def test_of_many_recipes_those_that_failed_are_no_failure_of_the_run_unless_kubeflow_says_so(
    store: ObjectStore,
) -> None:
    records.failed(begin("score", "cifar10"), "no such file")
    done("published_table")
    assert exit_handler("COMPLETE").state == "SUCCEEDED"
    end = exit_handler("FAILED")
    assert (end.state, end.message) == ("FAILED", "score.cifar10: no such file")


def test_a_step_that_kubeflow_failed_after_it_was_done_is_not_called_a_success(store: ObjectStore) -> None:
    done("fetch_teacher", "report")
    assert exit_handler("FAILED").state == "FAILED"


@pytest.mark.parametrize(("word", "state"), [("COMPLETE", "SUCCEEDED"), ("RUNNING", "FAILED"), ("FAILED", "FAILED")])
def test_records_of_earlier_versions_are_read_in_today_s_words(store: ObjectStore, word: str, state: str) -> None:
    done("fetch_teacher")
    old = {"run": RUN, "recipe": "digits", "state": word, "ended": "2026-11-28T14:26:41+00:00", "steps": {}}
    store.put(f"runs/{RUN}/run.json", str(old).replace("'", '"').encode())
    found = ending.ending_of(store, RUN)
    assert found is not None and found.state == state


def test_a_run_without_an_end_may_go_on(store: ObjectStore) -> None:
    begin("distill")
    assert ending.ending_of(store, RUN) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"[" * 100_000, b'{"run": 1}'])
def test_a_damaged_record_of_the_end_is_one_line_and_stops_no_later_run(
    store: ObjectStore, place: Path, damage: bytes
) -> None:
    done("report")
    store.put(f"runs/{RUN}/run.json", damage)
    with pytest.raises(UserError, match=rf"{RUN}/run\.json is not a record that this version reads: remove it"):
        ending.ending_of(store, RUN)
