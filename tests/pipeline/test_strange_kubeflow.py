"""Answers that Kubeflow Pipelines does not give: each a line, and no run is started twice or called by what is no id."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.compile import Compiled
from pipeline.engines import kubeflow_schedules
from pipeline.engines.base import Version
from pipeline.engines.kubeflow import Client
from pipeline.engines.kubeflow_answers import ANSWERS
from pipeline.profile import load
from sida.errors import SidaError, UserError
from sida.shapes import misshapen
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import FACTS, Kfp, Refused

NO_IDS = [None, "", {"a": 1}, "x\n../../evil", "\x1b[31mx", 5]
VERSION = Version("version-x", "x", False, "p")
LINE = "does not answer as Kubeflow Pipelines does"


def submit(command: Command, *more: str) -> Any:
    return command("submit", "digits", "--profile", command.profile(), "--quiet", *more)


def spoil(kfp: Kfp, path: str, **fields: Any) -> None:
    """Have these fields in each answer about ``path``, those of lists included; ``...`` takes one away."""

    def changed(item: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (item | fields).items() if value is not ...}

    def answer(method: str, at: str, said: Any) -> Any:
        if not at.startswith(path):
            return said
        lists = {name: [changed(each) for each in value] for name, value in said.items() if isinstance(value, list)}
        return {**said, **lists} if method == "GET" and not at.partition("/")[2] else changed(said)

    kfp.spoil = answer


@pytest.fixture
def client(command: Command, kfp: Kfp) -> Client:
    kfp.versions[VERSION.version_id] = {"pipeline_id": "p", "pipeline_spec": {"pipeline_spec": {"root": {}}}}
    return Client(load(command.profile()))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert LINE in str(caught.value)
    return str(caught.value)


def test_a_run_without_an_id_is_no_run(command: Command, kfp: Kfp) -> None:
    spoil(kfp, "runs", run_id=...)
    line = submit(command).mistake()
    assert f"{LINE} (run_id is missing)" in line and "may have been started" in line and "sida status" in line
    assert len(kfp.runs) == 1
    assert f"{LINE} (runs.run_id is missing)" in command("status", "--profile", command.profile()).mistake()


@pytest.mark.parametrize("run_id", NO_IDS)
def test_what_is_no_id_is_not_taken_for_one(client: Client, kfp: Kfp, run_id: Any) -> None:
    spoil(kfp, "runs", run_id=run_id)
    assert "may have been started" in refusal(lambda: client.start("x", VERSION, {}))
    assert len(kfp.runs) == 1


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("pipelines", "pipeline_id"),
        ("pipelines/upload_version", "pipeline_version_id"),
        ("experiments", "experiment_id"),
    ],
)
def test_nothing_is_started_of_what_has_no_id(client: Client, kfp: Kfp, path: str, field: str) -> None:
    compiled = Compiled("x", "pipelineInfo: {name: x}\nroot: {}\ncomponents: {}\n", "0" * 64)
    for value in (..., *NO_IDS):
        kfp.pipelines.clear()
        kfp.versions.clear()
        spoil(kfp, path, **{field: value})
        line = refusal(lambda: client.start("x", client.upload(compiled, ""), {}))
        assert f"{field} is " in line and "may have been" not in line
    assert not kfp.runs


def test_a_schedule_without_an_id_is_none(client: Client, kfp: Kfp) -> None:
    schedule = client.schedule("x", client.cron("0 3 * * 1"), VERSION, {})
    for value in (..., *NO_IDS):
        spoil(kfp, "recurringruns", recurring_run_id=value)
        assert "(recurring_run_id is " in refusal(lambda: client.create_schedule(schedule, "p", ""))
    for fields in ({"trigger": {"cron_schedule": {"cron": ["x"]}}}, {"runtime_config": {"parameters": [1]}}):
        spoil(kfp, "recurringruns", **fields)
        refusal(client.schedules)
    spoil(kfp, "recurringruns", display_name=..., trigger={"cron_schedule": {"cron": None}})
    assert {(one.name, one.cron) for one in client.schedules()} == {("", "no cron")}


FAULTS: list[dict[str, Any]] = [
    {"created_at": "9" * 40},
    {"created_at": 5},
    {"created_at": "x"},
    {"finished_at": []},
    {"state": {"a": "SUCCEEDED"}},
    {"error": {"message": {"a": 1}}},
    {"state_history": [{"state": ["x"]}]},
    {"run_details": {"task_details": [{"display_name": "distill", "start_time": "x"}]}},
    {"run_details": {"task_details": [{"display_name": 5}]}},
    {"run_details": {"task_details": {"a": 1}}},
    {"run_details": {"task_details": [None]}},
    {"state_history": [None]},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_was_started_is_called_by_its_id_whatever_else_is_wrong(
    client: Client, kfp: Kfp, fault: dict[str, Any]
) -> None:
    spoil(kfp, "runs", **fault)
    assert [client.start("x", VERSION, {})] == list(kfp.runs)
    refusal(lambda: client.run(*kfp.runs))
    refusal(lambda: client.runs(10))


def test_a_run_with_a_wrong_date_is_printed_when_started_and_is_a_line_when_looked_at(
    command: Command, kfp: Kfp
) -> None:
    spoil(kfp, "runs", created_at="9" * 40)
    said = submit(command)
    (run_id,) = kfp.runs
    assert (said.status, said.out) == (0, f"{run_id}\n")
    assert LINE in command("status", run_id, "--profile", command.profile()).mistake()


@pytest.mark.parametrize("instead", [{}, None, [], "x", {"run_id": ""}])
def test_a_run_whose_answer_says_nothing_is_found_by_its_name_if_no_other_has_it(
    client: Client, kfp: Kfp, instead: Any
) -> None:
    kfp.spoil = lambda method, path, said: instead if (method, path) == ("POST", "runs") else said
    assert [client.start("x", VERSION, {})] == list(kfp.runs)
    assert "may have been started" in refusal(lambda: client.start("x", VERSION, {}))


def test_a_start_whose_answer_is_lost_is_not_to_be_tried_again_blindly(client: Client, kfp: Kfp) -> None:
    def refuse(method: str, path: str, said: Any) -> Any:
        if (method, path) == ("POST", "runs"):
            raise Refused(504, "gateway timeout")
        return said

    kfp.spoil = refuse
    with pytest.raises(SidaError, match="504 gateway timeout: the run may have been started") as caught:
        client.start("x", VERSION, {})
    assert caught.value.exit_code == 1 and len(kfp.runs) == 1


def test_what_the_real_server_said_is_of_these_shapes() -> None:
    for name in ("succeeded", "failed", "cancelled", "driver-failed", "noimage", "oom"):
        run = json.loads((FACTS / f"{name}.json").read_text()) | {"run_id": "x"}  # which the facts leave out
        assert not misshapen(run, ANSWERS["V2beta1Run"])


@pytest.mark.parametrize("state", ["SUCCEEDED\nfoo", "Succeeded", "RUNTIME_STATE_UNSPECIFIED", "BOGUS", ""])
def test_a_run_in_a_state_that_kubeflow_has_not_is_a_line_and_not_waited_for(
    command: Command, kfp: Kfp, state: str
) -> None:
    spoil(kfp, "runs", state=state)
    said = submit(command, "--wait")
    assert said.status == 2 and f"{LINE} (state is malformed)" in said.err and len(said.err.splitlines()) < 4
    assert said.out.split() == list(kfp.runs)
    assert LINE in command("status", *kfp.runs, "--profile", command.profile()).mistake()


def test_a_task_s_state_is_one_of_kubeflow_s_too(client: Client, kfp: Kfp) -> None:
    run_id = client.start("x", VERSION, {})
    for state in ("BOGUS\n" * 50, ["x"], ""):
        spoil(kfp, "runs", run_details={"task_details": [{"display_name": "score", "state": state}]})
        assert "task_details.state is malformed" in refusal(lambda: client.run(run_id))
    for state in ("RUNTIME_STATE_UNSPECIFIED", None):
        spoil(kfp, "runs", run_details={"task_details": [{"display_name": "score", "state": state}]})
        assert client.run(run_id).tasks[0].state == ""
    schedule = client.schedule("x", client.cron("0 3 * * 1"), VERSION, {})
    for state in ("WEIRD", 5):
        spoil(kfp, "recurringruns", status=state)
        assert "status is malformed" in refusal(lambda: client.create_schedule(schedule, "p", ""))


def test_an_answer_about_another_one_is_none(client: Client, kfp: Kfp) -> None:
    run_id = client.start("x", VERSION, {})
    spoil(kfp, f"runs/{run_id}", run_id="another", state="SUCCEEDED")
    assert f"run_id another in place of {run_id}" in refusal(lambda: client.run(run_id))
    spoil(kfp, "runs", experiment_id="another")
    assert "experiment_id another in place of" in refusal(lambda: client.runs(10))
    spoil(kfp, "recurringruns", experiment_id="another")
    client.create_schedule(client.schedule("x", client.cron("0 3 * * 1"), VERSION, {}), "p", "")
    assert "experiment_id another in place of" in refusal(client.schedules)
    spoil(kfp, "experiments", display_name="another")
    for use in (lambda: client.runs(10), lambda: client.start("x", VERSION, {})):
        assert "display_name another in place of" in refusal(use)
    compiled = Compiled("x", "pipelineInfo: {name: x}\nroot: {}\ncomponents: {}\n", "0" * 64)
    kfp.pipelines["mine"] = {"pipeline_id": "mine", "display_name": "x"}
    other = {"pipeline_id": "another", "pipeline_version_id": "v", "display_name": "v"}
    kfp.spoil = lambda method, path, said: {"pipeline_versions": [other]} if path == "pipelines/mine/versions" else said
    assert "pipeline_id another in place of" in refusal(lambda: client.upload(compiled, ""))


@pytest.mark.parametrize("cron", ["0 99 99 99 99 99", f"0 {'9' * 5000} * * * *", "a b c d e f", "\x1b[2J\nforged"])
def test_a_schedule_whose_times_cannot_be_read_is_replaced_and_listed_in_a_line(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch, cron: str
) -> None:
    monkeypatch.setattr(kubeflow_schedules, "QUIET_ATTEMPTS", 1)
    monkeypatch.setattr(kubeflow_schedules.time, "sleep", lambda seconds: None)
    put = ("schedule", "digits", "--profile", command.profile(), "--cron")
    assert command(*put, "0 3 * * 1").status == 0
    (first,) = kfp.recurring
    kfp.recurring[first]["trigger"]["cron_schedule"]["cron"] = cron
    assert len(command("schedule", "--list", "--profile", command.profile()).out.splitlines()) == 1
    said = command(*put, "0 4 * * 1")
    assert said.status == 0 and "forged" not in said.out.splitlines() and first not in kfp.recurring
    assert len(kfp.enabled()) == 1
