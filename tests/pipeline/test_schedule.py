"""schedule: five fields to six, one schedule per name, and the difference shown."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from pipeline.cron import fires_within, six_fields
from pipeline.engines import kubeflow_schedules as verb
from sida.errors import UserError
from tests.pipeline.command import Command, Said
from tests.pipeline.kfp_server import Kfp, Refused


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
        ("0 3 L * *", ["'L'", "day of the month"]),
        ("0 3 * * 5#2", ["'5#2'", "day of the week"]),
        ("@weekly", ["1 field:"]),
    ],
)
def test_a_wrong_cron_is_refused_with_the_field(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        six_fields(text)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "QUIET_ATTEMPTS", 0)


def schedule(command: Command, *more: str) -> Said:
    return command("schedule", "digits", "--profile", command.profile(), *more)


def test_a_schedule_measures_anew_each_time_and_is_made_once(command: Command, kfp: Kfp) -> None:
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: created, 0 0 3 * * 1\n"
    (made,) = kfp.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert made["runtime_config"]["parameters"] == {"recipe": "digits", "repeat": "scheduled"}
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
    asked = [path.rpartition(":")[2] for method, path in kfp.requests if "recurringruns" in path and method == "POST"]
    assert asked == ["recurringruns", "recurringruns", "enable", "disable"]
    assert kfp.enabled() == [new]


@pytest.mark.parametrize("breaks", ["POST recurringruns", ":enable", ":disable", "DELETE recurringruns"])
def test_whatever_fails_while_a_schedule_is_replaced_exactly_one_fires_and_again_mends_it(
    command: Command, kfp: Kfp, breaks: str
) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    (old,) = kfp.recurring
    broken = [True]

    def fail(method: str, path: str) -> None:
        if broken and (f"{method} {path}".startswith(breaks) or (breaks[0] == ":" and path.endswith(breaks))):
            broken.clear()  # once: what follows is the repair
            raise Refused(500, "out of order")

    kfp.before = fail
    said = schedule(command, "--cron", "0 4 * * 1")
    assert (said.status, said.out) == (1, "")
    assert len(kfp.enabled()) == 1
    if breaks != "DELETE recurringruns":
        assert kfp.enabled() == [old]  # as it was
    again = schedule(command, "--cron", "0 4 * * 1")
    assert again.status == 0, again.err
    (made,) = kfp.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1"
    assert made["status"] == "ENABLED"


def test_a_killed_replacement_leaves_one_schedule_at_least_at_every_moment(command: Command, kfp: Kfp) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    seen: list[int] = []
    kfp.before = lambda method, path: seen.append(len(kfp.enabled()))
    schedule(command, "--cron", "0 4 * * 1")
    assert min(seen) == 1 and seen.count(2) == 1  # two only when the last but one request came in: disable


@pytest.mark.parametrize(
    ("cron", "minute", "fires"),
    [
        ("0 0 3 * * 1", 59, True),
        ("0 0 3 * * 1", 0, True),
        ("0 0 3 * * 1", 5, False),
        ("0 0 3 * * 1", 29, True),  # where clocks stand half an hour apart
        ("0 7-9 * * * *", 8, True),
        ("0 7-9 * * * *", 10, False),
        ("0 * * * * *", 30, True),
        ("0 3/20 * * * *", 22, True),
        ("0 1,2 * * * *", 5, False),
    ],
)
def test_a_schedule_is_replaced_in_a_minute_in_which_it_does_not_fire(cron: str, minute: int, fires: bool) -> None:
    assert fires_within(cron, datetime(2026, 11, 2, 12, minute), 1) is fires


def test_a_changed_pipeline_is_a_difference_too(command: Command, kfp: Kfp) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    mine = command.profile(("  memory: 2Gi", "  memory: 3Gi"), name="other.yaml")
    lines = command("schedule", "digits", "--profile", mine, "--cron", "0 3 * * 1").out.splitlines()
    assert [line[:10] for line in lines[1:]] == ["- version:", "+ version:"]


def test_that_there_is_no_schedule_is_said_in_a_line(command: Command, kfp: Kfp) -> None:
    mine = command.profile()
    (line,) = command("schedule", "--list", "--profile", mine).out.splitlines()
    assert line == "no schedule in experiment sida-tests: `schedule RECIPE --cron ...` makes one"
    assert json.loads(command("schedule", "--list", "--profile", mine, "--json").out)["schedules"] == []


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


def test_two_pipelines_of_a_recipe_have_a_schedule_each(command: Command, kfp: Kfp) -> None:
    published = ("schedule", "cifar10-uncond", "--profile", command.profile(), "--pipeline", "score_published")
    whole = published[:4]
    assert command(*whole, "--cron", "0 3 1 * *").out == "sida-cifar10-uncond: created, 0 0 3 1 * *\n"
    said = command(*published, "--cron", "0 3 2 * *")
    assert said.out == "sida-cifar10-uncond-score-published: created, 0 0 3 2 * *\n"
    assert [item["display_name"] for item in kfp.recurring.values()] == [
        "sida-cifar10-uncond",
        "sida-cifar10-uncond-score-published",
    ]
    assert command(*published, "--delete").out == "sida-cifar10-uncond-score-published: deleted\n"
    assert [item["display_name"] for item in kfp.recurring.values()] == ["sida-cifar10-uncond"]


def test_a_wrong_cron_sends_nothing(command: Command, kfp: Kfp) -> None:
    assert "'25'" in schedule(command, "--cron", "0 25 * * *").mistake()
    assert not kfp.requests
