"""schedule: five fields to six, one schedule per name, and the difference shown."""

from __future__ import annotations

import pytest

from pipeline.cron import six_fields
from sida.errors import UserError
from tests.pipeline.command import Command, Said
from tests.pipeline.kfp_server import Kfp


@pytest.mark.parametrize("text", ["0 3 * * 1", "*/15 0-6 1,15 JAN-MAR mon-fri", "0 0 ? * 0", "5 4 * * */2"])
def test_five_fields_become_six_with_the_second_zero(text: str) -> None:
    assert six_fields(text) == f"0 {text}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 3 * *", ["4 fields"]),
        ("0 0 3 * * 1", ["6 fields"]),
        ("", ["0 fields"]),
        ("60 3 * * 1", ["'60'", "minute"]),
        ("0 24 * * 1", ["'24'", "hour"]),
        ("0 3 0 * 1", ["'0'", "day of the month"]),
        ("0 3 * * 7", ["0 for Sunday"]),
        ("0 3 * * 5-1", ["'5-1'", "day of the week"]),
        ("0 3 * foo 1", ["'foo'", "month"]),
        ("*/0 3 * * 1", ["'*/0'"]),
        ("0 3 * * 1,", ["day of the week"]),
        ("@weekly", ["1 field:"]),
    ],
)
def test_a_wrong_cron_is_refused_with_the_field(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        six_fields(text)
    assert all(word in str(caught.value) for word in words), caught.value


def schedule(command: Command, *more: str) -> Said:
    return command("schedule", "digits", "--profile", command.profile(), *more)


def test_a_schedule_measures_anew_each_time_and_is_made_once(command: Command, kfp: Kfp) -> None:
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: created, 0 0 3 * * 1\n"
    (made,) = kfp.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert made["runtime_config"]["parameters"] == {"recipe": "digits", "repeat": "[[ScheduledTime]]"}
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: unchanged, 0 0 3 * * 1\n"
    assert list(kfp.recurring.values()) == [made]


def test_a_changed_schedule_shows_the_difference_and_replaces_the_old_one(command: Command, kfp: Kfp) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    (old,) = kfp.recurring
    said = schedule(command, "--cron", "0 4 * * 1")
    assert said.out.splitlines() == ["sida-digits: changed", "- cron: 0 0 3 * * 1", "+ cron: 0 0 4 * * 1"]
    (new,) = kfp.recurring
    assert new != old
    posts = [request for request in kfp.requests if "recurringruns" in request[1] and request[0] != "GET"]
    assert [method for method, _ in posts] == ["POST", "POST", "DELETE"]  # never without one in between


def test_a_changed_pipeline_is_a_difference_too(command: Command, kfp: Kfp) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    mine = command.profile(("  memory: 2Gi", "  memory: 3Gi"), name="other.yaml")
    lines = command("schedule", "digits", "--profile", mine, "--cron", "0 3 * * 1").out.splitlines()
    assert [line[:10] for line in lines[1:]] == ["- version:", "+ version:"]


def test_schedules_are_listed_paused_and_go_on_and_are_deleted(command: Command, kfp: Kfp) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    schedule(command, "--cron", "0 5 * * *", "--name", "daily")
    assert schedule(command, "--pause").out == "sida-digits: paused\n"
    listed = command("schedule", "--list", "--profile", command.profile()).out.splitlines()
    assert listed == ["sida-digits  0 0 3 * * 1  recipe digits  paused", "daily  0 0 5 * * *  recipe digits"]
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: goes on, 0 0 3 * * 1\n"
    assert schedule(command, "--delete").out == "sida-digits: deleted\n"
    assert [item["display_name"] for item in kfp.recurring.values()] == ["daily"]
    assert "'sida-digits'" in schedule(command, "--delete").mistake()


def test_a_wrong_cron_sends_nothing(command: Command, kfp: Kfp) -> None:
    assert "'25'" in schedule(command, "--cron", "0 25 * * *").mistake()
    assert not kfp.requests
