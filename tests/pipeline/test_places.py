"""Places of our own output that a user names: tried before work begins, and refused in a line that says which one."""

from __future__ import annotations

import os

import pytest

from sida import progress
from sida.errors import UserError
from sida.settings import LONGEST_SECONDS, settings
from tests.pipeline.command import Command

MEMORY, FULL = "/proc/self/mem", "/dev/full"  # both can be opened, and take no bytes
pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="Linux has these files")


@pytest.mark.parametrize("path", [MEMORY, FULL, "/proc/version", "/proc/new", "/nowhere/events", "."])
def test_events_that_nobody_can_write_are_refused_by_their_setting(
    path: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_EVENTS", path)
    said = command("step", "prepare_data", "--recipe", "digits")
    assert said.status == 2 and "SIDA_EVENTS " in said.err
    assert path in said.mistake()
    assert not list(command.place.iterdir())


def test_an_event_that_cannot_be_written_ends_the_step_and_its_error_is_still_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, reason in ((MEMORY, "cannot be written"), (FULL, "disk full")):
        monkeypatch.setenv("SIDA_EVENTS", place)
        with pytest.raises(UserError, match=f"SIDA_EVENTS {place}: {reason}"):
            progress.note("score", "begins")
        progress.error("score", "what went wrong", 2)
        assert capsys.readouterr().err == "error: what went wrong\n"


@pytest.mark.parametrize("variable", ["SIDA_RUNS", "SIDA_CACHE"])
@pytest.mark.parametrize("path", [MEMORY, FULL, "/proc", "/proc/new/folder", "/proc/version/x"])
def test_a_folder_that_takes_no_file_is_refused_before_anything_is_written(
    variable: str, path: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, path)
    monkeypatch.setenv("SIDA_STORE", str(command.place / "store"))
    assert f"{variable} {path}: " in command("run", "digits").mistake()
    assert not (command.place / "store").exists()


def test_a_store_in_a_folder_that_takes_no_file_is_the_user_s_to_mend(command: Command) -> None:
    line = command("run", "digits", "--store", "/proc/new").mistake()
    assert "/proc/new" in line and "set SIDA_STORE" in line


VERBS = {
    "compile": ("digits", "--output"),
    "new": ("birds", "--output"),
    "sample": ("file", "--seeds", "0", "--grid"),
    "sample ": ("file", "--seeds", "0", "--output"),
    "export": ("file", "--output"),
    "convert": ("file", "--output"),
    "compare": ("--output",),
    "teach": ("digits", "--output"),
    "export-webdataset": ("file", "--output"),
    "step": ("prepare_data", "--recipe", "digits", "--outputs"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_output_is_tried_first_and_named_when_it_cannot_be_written(verb: str, command: Command) -> None:
    *arguments, option = VERBS[verb]
    for place in (FULL, "/proc/new"):
        line = command(verb.strip(), *arguments, option, place)
        (error,) = [line for line in line.err.splitlines() if line.startswith("error: ")]
        assert line.status == 2 and option in error and place.rpartition("/")[0] in error, error
    assert not list(command.place.iterdir())


def test_a_folder_in_the_place_of_a_file_is_said_with_what_to_do(command: Command) -> None:
    folder = command.place / "there"
    folder.mkdir()
    for arguments in (
        ("compile", "digits", "--output"),
        ("new", "birds", "--output"),
        ("sample", "x", "--seeds", "0", "--grid"),
    ):
        line = command(*arguments, str(folder)).mistake()
        assert f"{folder}: is a folder: name a file in it" in line
    for arguments in (("inspect", str(folder)), ("convert", str(folder), "--output", "new")):
        assert f"{folder} is a folder, not a file: give a file" in command(*arguments).mistake()


def test_what_can_be_written_is_taken_and_left_as_it_is(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_EVENTS", "-")
    monkeypatch.setenv("SIDA_CACHE", str(command.place / "not" / "yet"))
    file = command.place / "there.yaml"
    file.write_text("before")
    assert command("compile", "digits", "--output", str(file)).status == 0
    assert not file.read_text().startswith("before")
    assert command("compile", "digits", "--output", "/dev/null").status == 0
    assert [path.name for path in command.place.iterdir()] == ["there.yaml"]


@pytest.mark.parametrize("seconds", ["0", "0.1", "4.99", "-30", "nan", "inf", "soon"])
def test_a_lease_lives_for_five_seconds_at_least(
    seconds: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_LEASE_SECONDS", seconds)
    line = command("run", "digits", "--store", str(command.place / "store")).mistake()
    assert f"SIDA_LEASE_SECONDS='{seconds}' is not a number of 5 or more" in line
    assert not (command.place / "store").exists()


@pytest.mark.parametrize("text", ["0.5", "2.7"])
def test_a_part_of_a_worker_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a worker was none, which means the recipe's number; 2.7 were 2."""
    monkeypatch.setenv("SIDA_WORKERS", text)
    with pytest.raises(UserError, match=f"SIDA_WORKERS='{text}' is not a whole number"):
        settings()
    monkeypatch.setenv("SIDA_WORKERS", "3")
    assert settings().workers == 3


def test_a_lease_of_five_seconds_or_of_ages_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, seconds in (("5", 5.0), ("5.5", 5.5), ("1e300", LONGEST_SECONDS), ("", 30.0)):
        monkeypatch.setenv("SIDA_LEASE_SECONDS", text)
        assert settings().lease_seconds == seconds
