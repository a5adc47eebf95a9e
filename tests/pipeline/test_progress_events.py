"""Progress events: the file that the command line reads, and plain lines where there is none."""

import json
import multiprocessing
from pathlib import Path

import pytest

from sida import progress


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("SIDA_EVENTS", str(path))
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fast_loop_sends_few_updates_but_always_the_last(events: Path) -> None:
    bar = progress.Progress("distill", 1000, "images")
    for done in range(1001):
        bar.update(done, loss=0.5)
    found = read(events)
    assert found[0]["done"] == 0 and found[-1]["done"] == 1000
    assert len(found) < 50


def test_numbers_that_are_not_finite_are_left_out_so_that_the_line_is_json(events: Path) -> None:
    progress.Progress("distill", 1, "images").update(1, good=1.0, bad=float("nan"), none=None)
    assert read(events)[0]["numbers"] == {"good": 1.0}


def test_an_error_is_one_line_whatever_the_message_holds(events: Path) -> None:
    progress.error("score", "first\nsecond", 2)
    (event,) = read(events)
    assert event == {"event": "error", "step": "score", "message": "first second", "exit_code": 2}


def _write_notes(number: int) -> None:
    for _ in range(100):
        progress.note(f"step{number}", "x" * 500)


def test_events_of_several_processes_never_mix(events: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_notes, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read(events)) == 400


def test_without_an_events_file_errors_and_notes_go_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIDA_EVENTS", raising=False)
    progress.step_started("score")
    progress.note("score", "a note")
    progress.error("score", "a mistake", 2)
    assert capsys.readouterr().err == "score: a note\nscore: error: a mistake\n"


def test_progress_in_words_has_rate_and_time_left() -> None:
    fields = {"done": 1000, "total": 5000, "unit": "images", "rate": 100.0, "numbers": {"loss": 0.25}}
    assert progress.progress_in_words(fields) == "1,000 of 5,000 images (20%), 100 images/s, 0:40 left, loss 0.25"
