"""What workflow engines run around the steps, ``sida step look_up`` and ``record_end``, and the address files of ``--outputs``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import around
from components.__main__ import main
from sida import ending, failures, records
from sida.data.prepare import prepare_data
from sida.settings import settings
from sida.steps.execute import execute
from sida.steps.log import read_log
from sida.stores import open_store, read_address
from tests.conftest import ROOT
from tests.pipeline.facts import ARGO

RUN = "digits-20261129-131330-f1ad"
PREPARE = {
    "name": "prepare-data",
    "step": "prepare_data",
    "inputs": {},
    "recipe": "",
    "anew": False,
    "one_of_many": False,
}
REFERENCE = PREPARE | {
    "name": "reference-statistics",
    "step": "reference_statistics",
    "inputs": {"dataset": ["prepare-data"]},
}


def published(place: Path) -> str:
    """Address of the digits' data set."""
    output = SimpleNamespace(path=str(place / "dataset"), metadata={})
    execute(prepare_data, output, recipe="digits", attempt="", run_id="earlier")
    return str(output.metadata["address"])


def look_up(place: Path, *tasks: dict[str, Any], more: tuple[str, ...] = ()) -> dict[str, str]:
    """The files that it wrote."""
    folder = place / "outputs"
    flags = ("--recipe=digits", f"--run-id={RUN}", f"--tasks={json.dumps(tasks)}", f"--outputs={folder}")
    assert main(["look_up", *flags, *more]) == 0
    return {path.name: path.read_text() for path in folder.iterdir()}


def recorded() -> dict[str, str]:
    return {step: call.state for step, call in records.calls(open_store(settings().store), RUN).items()}


# -- look_up


def test_what_is_published_is_told_by_address_and_recorded_as_reused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = published(place)
    capsys.readouterr()
    assert look_up(place, PREPARE, REFERENCE) == {"prepare-data": address, "reference-statistics": ""}
    assert capsys.readouterr().out == f"prepare-data\t{address}\nreference-statistics\t-\n"
    assert recorded() == {"prepare_data": "reused"}
    call = records.call_of(open_store(settings().store), RUN, "prepare_data")
    assert (call.recipe, call.manifest) == ("digits", address)


def test_its_log_is_kept_for_whoever_asks_when_its_pod_is_gone(place: Path) -> None:
    flags = ("--recipe=digits", f"--run-id={RUN}", f"--tasks={json.dumps([PREPARE])}", f"--outputs={place / 'outputs'}")
    subprocess.run([sys.executable, "-m", "components", "look_up", *flags], cwd=ROOT, check=True, capture_output=True)
    assert "prepare-data" in (read_log(open_store(settings().store), RUN, "look_up") or "")


def test_what_is_not_published_leaves_an_empty_file_no_record_and_no_lease(place: Path) -> None:
    assert look_up(place, PREPARE, REFERENCE) == {"prepare-data": "", "reference-statistics": ""}
    assert recorded() == {}
    assert open_store(settings().store).list("leases/") == []


def test_what_is_to_be_made_anew_is_not_looked_up_nor_what_comes_after_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(place)
    looked: list[str] = []
    monkeypatch.setattr(around, "look_up_step", lambda step, **given: looked.append(step.name) or "")
    assert set(look_up(place, PREPARE | {"anew": True}, REFERENCE).values()) == {""}
    assert looked == []


@pytest.mark.parametrize("damage", ["emptied", "another", "gone"])
def test_a_damaged_store_is_left_for_the_step_to_report(place: Path, damage: str, capfd: Any) -> None:
    path = Path(published(place).removeprefix("file://"))
    match damage:
        case "emptied":
            path.write_text("")
        case "another":
            path.write_text(path.read_text().replace('"images"', '"imagos"', 1).replace("digits", "digots"))
        case "gone":
            path.unlink()
    assert look_up(place, PREPARE) == {"prepare-data": ""}
    assert recorded() == {}


def test_a_store_that_cannot_be_read_is_left_for_the_step_to_report(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDA_STORE", "s3://bucket/sida")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert look_up(place, PREPARE) == {"prepare-data": ""}
    assert "not looked up" in capsys.readouterr().err


def test_a_task_of_many_has_its_own_recipe_and_is_recorded_under_its_name(place: Path) -> None:
    address = published(place)
    each = [
        PREPARE | {"name": f"prepare-data-{n:02}", "recipe": name, "one_of_many": True}
        for n, name in enumerate(("digits", "patches-16"))
    ]
    known = look_up(place, *each)
    assert known == {"prepare-data-00": address, "prepare-data-01": ""}
    assert recorded() == {"prepare_data.digits": "reused"}


def test_steps_that_measure_are_looked_up_under_the_repetition_and_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(around, "look_up_step", lambda step, **given: seen.append(given) or published(place))
    scores = PREPARE | {
        "name": "score",
        "step": "score",
        "inputs": {"generator": ["prepare-data"], "reference": ["prepare-data"]},
    }
    more = ("--repeat=scheduled", "--scheduled=2026-11-29T13:17:00Z")
    look_up(place, PREPARE, scores, more=more)
    plain, measured = seen
    assert "repeat" not in plain
    assert (measured["repeat"], measured["scheduled"]) == ("scheduled", "2026-11-29T13:17:00Z")
    assert Path(measured["generator"]).name == "input-generator-0"  # as the step itself reads it
    assert measured["one_of_many"] is False


@pytest.mark.parametrize(
    "tasks",
    [
        "",
        "[",
        "[" * 50_000,
        "{}",
        '[{"name": "x"}]',
        "[1]",
        json.dumps([PREPARE | {"step": "prepare_datum"}]),
        json.dumps([PREPARE | {"name": "../above", "anew": True}]),
        json.dumps([PREPARE | {"name": "/tmp/elsewhere", "anew": True}]),
        json.dumps([PREPARE | {"name": "a\nb", "anew": True}]),
        json.dumps([PREPARE | {"name": 5, "anew": True}]),
        json.dumps([PREPARE | {"inputs": ["prepare-data"]}]),
        json.dumps([PREPARE | {"recipe": 5}]),
        json.dumps([REFERENCE]),
        json.dumps([PREPARE, PREPARE]),
    ],
)
def test_tasks_of_another_version_are_one_line_with_status_2(
    place: Path, capsys: pytest.CaptureFixture[str], tasks: str
) -> None:
    flags = ["--recipe=digits", "--run-id=r", f"--tasks={tasks}", f"--outputs={place / 'outputs'}"]
    assert main(["look_up", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --tasks") and "compile the pipeline anew" in line
    assert not (place / "outputs").exists() and not (place / "above").exists()


def test_a_flag_that_is_missing_or_unknown_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--recipe=digits"], ["--recipe=digits", "--run-id=r", "--tusks=[]"]):
        with pytest.raises(SystemExit) as caught:
            main(["look_up", *flags])
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# -- record_end


def record_end(what: str, **changes: str) -> records.RunEnd:
    """Tell it what Argo told the exit handler of such a run; the record."""
    told = ARGO[what]["told"] | changes
    flags = ["--recipe=digits", f"--run-id={RUN}", f"--state={told['state']}", f"--failures={told['failures']}"]
    assert main(["record_end", *flags]) == 0
    end = records.end_of(open_store(settings().store), RUN)
    assert end is not None
    return end


@pytest.mark.parametrize(
    ("what", "state", "message"),
    [
        ("succeeded", "SUCCEEDED", ""),
        ("scheduled", "SUCCEEDED", ""),
        ("deleted", "SUCCEEDED", ""),  # a pod was lost, and the next one did it
        ("failed", "FAILED", "prepare-data(0): main: Error (exit code 2)"),
        ("retried", "FAILED", "compare(0): main: Error (exit code 75)"),
        (
            "deadline",
            "FAILED",
            "prepare-data(0): Pod was active on the node longer than the specified deadline",
        ),
        ("stopped", "CANCELLED", "cancelled at 20"),
        ("noimage", "CANCELLED", "cancelled at 20"),
    ],
)
def test_the_end_is_what_argo_says_where_no_step_says_more(place: Path, what: str, state: str, message: str) -> None:
    end = record_end(what)
    assert end.state == state
    assert end.message.startswith(message) and bool(end.message) == bool(message)
    assert end.sure


def test_what_a_step_recorded_of_its_failure_comes_first(place: Path) -> None:
    output = SimpleNamespace(path=str(place / "dataset"), metadata={})
    with pytest.raises(SystemExit):
        execute(prepare_data, output, recipe="digits", attempt="sometimes", run_id=RUN)
    end = record_end("failed")
    assert end.state == "FAILED" and end.message.startswith("prepare_data: ") and "'new'" in end.message
    assert end.steps == {"prepare_data": "failed"}


def test_a_cancel_that_was_recorded_before_counts(place: Path) -> None:
    ending.cancel(open_store(settings().store), RUN, "by `cancel`")
    end = record_end("stopped")
    assert end.state == "CANCELLED" and "by `cancel`" in end.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        '"null"',
        "[",
        "[" * 50_000,
        json.dumps("[" * 50_000),
        "{}",
        '"{{workflow.failures}}"',
        '[{"message": "x"}]',
        "[1]",
    ],
)
def test_failures_that_cannot_be_read_lose_no_end(place: Path, text: str) -> None:
    end = record_end("failed", failures=text)
    assert end.state == "FAILED"
    assert end.message


def test_what_a_pod_said_is_kept_without_secrets_and_not_at_any_length(place: Path) -> None:
    said = f"https://me:hunter2hunter2@host/x?sig=abc123 {'A' * 100_000}"
    nodes = [{"displayName": "compare(0)", "message": said, "finishedAt": "2026-11-29T10:00:00Z"}]
    end = record_end("failed", failures=json.dumps(nodes))
    assert end.message.startswith("compare(0): https://***@host/x?sig=*** A") and len(end.message) <= 1000


# -- --outputs


def test_a_step_writes_its_address_where_an_engine_looks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "outputs"
    flags = ["--recipe=digits", f"--run-id={RUN}", "--attempt="]
    assert main(["prepare_data", *flags, f"--outputs={folder}"]) == 0
    printed = capsys.readouterr().out
    (file,) = folder.iterdir()
    assert printed == f"dataset\t{file.read_text()}\n" and file.name == "dataset"
    assert read_address(file.read_text())
    assert recorded() == {"prepare_data": "ran"}


def test_a_step_that_fails_writes_no_address(place: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prepare_data", "--recipe=digits", "--attempt=sometimes", f"--outputs={place / 'outputs'}"])
    assert caught.value.code == 2
    assert not (place / "outputs").exists()


def test_a_failure_of_one_of_many_is_kept_with_the_run_and_its_address_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = place / "gone.yaml"
    gone.write_text(f"extends: cifar10-uncond\nname: gone\nreleased: {{address: {place}/nothing.pkl, sha256: null}}\n")
    flags = [f"--recipe={gone}", f"--run-id={RUN}", "--one-of-many=true"]
    assert main(["fetch_released", *flags, f"--outputs={place / 'outputs'}"]) == 0
    (file,) = (place / "outputs").iterdir()
    failure = failures.parse_failure(read_address(file.read_text()))
    assert failure is not None and (failure.item, failure.step) == ("gone", "fetch_released")
    assert f"/runs/{RUN}/failures/" in file.read_text()
    assert capsys.readouterr().out == f"generator\t{file.read_text()}\n"
    assert main(["fetch_released", *flags]) == failure.exit_code  # alone it is an error


def test_the_failure_s_address_is_passed_on_by_the_steps_after_it(place: Path) -> None:
    failure = failures.Failure(item="gone", recipe="digits", step="fetch_released", message="no file", exit_code=2)
    address = records.pass_on(RUN, failure)
    flags = ["--recipe=digits", f"--run-id={RUN}", "--one-of-many=true"]
    given = [f"--generator={address}", f"--reference={address}"]
    assert main(["score", *flags, *given, f"--outputs={place / 'outputs'}"]) == 0
    passed = failures.parse_failure(read_address((place / "outputs" / "scores").read_text()))
    assert passed == failure
