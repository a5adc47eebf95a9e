"""submit, status and cancel against a stand-in that is as strict as KFP's own models."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.engines import base as clients
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp


def submit(command: Command, *more: str, profile: str = "") -> Any:
    return command("submit", "digits", "--profile", profile or command.profile(), *more)


def test_submit_uploads_starts_and_prints_the_run_s_id_alone(command: Command, kfp: Kfp) -> None:
    said = submit(command, "--repeat", "monday")
    (run,) = kfp.runs.values()
    (version,) = kfp.versions.values()
    assert said.status == 0
    assert said.out == f"{run['run_id']}\n"
    assert said.err.splitlines()[-1] == f"{command.host}/#/runs/details/{run['run_id']}"
    assert run["runtime_config"]["parameters"] == {"recipe": "digits", "repeat": "monday"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["service_account"] == "pipeline-runner"
    assert re.fullmatch(r"digits-20[0-9]{2}-[0-9]{2}-[0-9]{2}-[0-9a-f]{12}", version["display_name"])
    assert version["display_name"].rpartition("-")[2] in version["description"]


def test_a_version_is_uploaded_only_when_what_it_says_has_changed(command: Command, kfp: Kfp) -> None:
    submit(command)
    assert "already there" in submit(command).err
    assert (len(kfp.pipelines), len(kfp.versions), len(kfp.runs)) == (1, 1, 2)
    assert all(run["runtime_config"]["parameters"]["repeat"] == "reuse" for run in kfp.runs.values())
    changed = command.profile(("  memory: 2Gi", "  memory: 3Gi"), name="other.yaml")
    assert "uploaded" in submit(command, profile=changed).err
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 2)


@pytest.mark.parametrize(("end", "status"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_wait_shows_each_change_once_and_ends_as_the_run_does(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch, end: str, status: int
) -> None:
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)
    kfp.story = [
        ("RUNNING", {"fetch-teacher": "RUNNING", "prepare-data": ""}),
        ("RUNNING", {"fetch-teacher": "RUNNING", "prepare-data": ""}),
        (end, {"fetch-teacher": end, "prepare-data": ""}),
    ]
    said = submit(command, "--wait")
    assert said.status == status
    lines = [line.split()[:2] for line in said.err.splitlines() if line.startswith(("fetch", "prepare", "exit"))]
    assert lines == [["fetch_teacher", "RUNNING"], ["fetch_teacher", end]]
    assert f": {end}" in said.err.splitlines()[-1]
    assert said.out == f"{next(iter(kfp.runs))}\n"


def test_status_shows_the_steps_and_cancel_ends_the_run_once(command: Command, kfp: Kfp) -> None:
    kfp.story = [("RUNNING", {"distill": "RUNNING", "score": ""})]
    submit(command)
    (run_id,) = kfp.runs
    mine = command.profile()
    said = command("status", run_id, "--profile", mine)
    assert said.status == 0
    assert "distill               RUNNING\nscore                 NOT STARTED\n" in said.out
    for _ in range(2):
        assert "cancelling" in command("cancel", run_id, "--profile", mine).out
    for _ in range(kfp.canceling_polls):
        command("status", run_id, "--profile", mine)
    assert kfp.runs[run_id]["state"] == "FAILED"  # Kubeflow's word for it
    said = command("status", run_id, "--profile", mine)
    assert said.status == 1
    assert "distill               CANCELLED\n" in said.out and ": CANCELLED: cancelled at " in said.out
    assert "had ended already, CANCELLED" in command("cancel", run_id, "--profile", mine).out
    assert sum(path.endswith(":terminate") for _, path in kfp.requests) == 1


def test_without_a_run_status_lists_the_newest_with_how_each_stands(command: Command, kfp: Kfp) -> None:
    mine = command.profile()
    assert "no runs in experiment sida-tests" in command("status", "--profile", mine).out
    assert not kfp.experiments  # to look makes none
    experiment = kfp.answer("POST", "experiments", {}, {"display_name": "sida-tests"})["experiment_id"]
    for number, (state, before) in enumerate(
        [("SUCCEEDED", "RUNNING"), ("FAILED", "CANCELING"), ("RUNNING", "PENDING")]
    ):
        history = [{"update_time": f"2026-11-28T14:2{number}:00Z", "state": then} for then in (before, state)]
        fields = {"run_id": f"run-{number}", "display_name": f"number {number}", "experiment_id": experiment}
        kfp.runs[f"run-{number}"] = fields | {
            "state": state,
            "state_history": history,
            "created_at": "2026-11-28T14:20:00Z",
        }
    said = command("status", "--profile", mine, "--last", "2")
    assert said.status == 0
    assert [line.split() for line in said.out.splitlines()] == [
        ["run-2", "2026-11-28T14:20:00+00:00", "RUNNING", "number", "2"],
        ["run-1", "2026-11-28T14:20:00+00:00", "CANCELLED", "number", "1"],
    ]
    told = json.loads(command("status", "--profile", mine, "--json").out)
    assert [run["state"] for run in told["runs"]] == ["RUNNING", "CANCELLED", "SUCCEEDED"]
    assert "'0'" in command("status", "--profile", mine, "--last", "0").err


def test_an_unknown_run_is_named(command: Command, kfp: Kfp) -> None:
    for verb in ("status", "cancel"):
        assert "'nobody'" in command(verb, "nobody", "--profile", command.profile()).mistake()


def test_a_token_comes_from_the_environment_or_a_file_and_is_never_shown(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "t0ken"
    line = submit(command).mistake()
    assert "401" in line and "kfp.token_variable" in line
    assert not kfp.requests
    by_variable = command.profile(("  experiment:", "  token_variable: MY_KFP\n  experiment:"))
    assert "MY_KFP is not set" in submit(command, profile=by_variable).mistake()
    monkeypatch.setenv("MY_KFP", "t0ken")
    assert submit(command, profile=by_variable).status == 0
    monkeypatch.setenv("MY_KFP", "wr0ng")
    assert "wr0ng" not in submit(command, profile=by_variable).mistake()
    file = command.place / "token"
    by_file = command.profile(("  experiment:", f"  token_file: {file}\n  experiment:"))
    assert str(file) in submit(command, profile=by_file).mistake()
    file.write_text("t0ken\n")
    assert submit(command, profile=by_file).status == 0


def test_a_token_that_rotates_while_a_run_is_followed_is_read_anew_and_may_be_late(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)
    file = command.place / "token"
    file.write_text("first")
    kfp.token, polls = "first", 0
    kfp.story = [("RUNNING", {})] * 4 + [("SUCCEEDED", {})]

    def rotate(method: str, path: str) -> None:
        nonlocal polls
        if not path.startswith("runs/"):
            return
        polls += 1
        if polls == 2:  # before the file has it
            kfp.token = "second"

    kfp.before = rotate
    pauses = 0

    def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 4:
            file.write_text("second")

    monkeypatch.setattr(clients.time, "sleep", pause)
    by_file = command.profile(("  experiment:", f"  token_file: {file}\n  experiment:"))
    assert submit(command, "--wait", profile=by_file).status == 0
    assert (polls, pauses) == (5, 6)


def test_a_profile_without_a_login_takes_what_the_environment_or_the_pod_has(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "t0ken"
    mounted = command.place / "mounted"
    monkeypatch.setattr("pipeline.engines.credentials.MOUNTED", str(mounted))
    assert "401" in submit(command).mistake()
    mounted.write_text("t0ken\n")
    assert submit(command).status == 0
    mounted.write_text("wr0ng")
    named = command.place / "named"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(named))
    assert f"KF_PIPELINES_SA_TOKEN_PATH {named}: No such file" in submit(command).mistake()
    named.write_text("t0ken")
    assert submit(command).status == 0
    monkeypatch.setenv("KFP_TOKEN", "wr0ng")
    assert "401" in submit(command).mistake()
    monkeypatch.setenv("KFP_TOKEN", "t0ken")
    named.write_text("")
    assert submit(command).status == 0


def test_everything_of_a_user_is_asked_for_and_made_in_the_user_s_namespace(command: Command, kfp: Kfp) -> None:
    kfp.user = "ann"
    assert "namespace" in submit(command).mistake()
    ann = command.profile(("  experiment:", "  namespace: ann\n  experiment:"))
    assert submit(command, profile=ann).status == 0
    assert submit(command, profile=ann).status == 0
    assert len(kfp.pipelines) == len(kfp.experiments) == 1 and len(kfp.runs) == 2
    assert command("status", "--profile", ann).out.count("run-") == 2
    assert command("schedule", "digits", "--profile", ann, "--cron", "0 3 * * 1").status == 0
    assert command("schedule", "--list", "--profile", ann).out
    bob = command.profile(("  experiment:", "  namespace: bob\n  experiment:"), name="bob.yaml")
    assert "403" in submit(command, profile=bob).mistake()


@pytest.mark.parametrize(("form", "word"), [("old", "2.x is needed"), ("login", "login page")])
def test_a_server_that_is_not_kfp_2_is_told_from_one_that_is_away(
    command: Command, kfp: Kfp, form: str, word: str
) -> None:
    kfp.form = form
    assert word in submit(command).mistake()


def test_a_host_that_does_not_answer_is_named_with_what_to_try(command: Command) -> None:
    line = submit(command).mistake()
    assert "http://127.0.0.1:1 does not answer" in line
    assert "port-forward" in line


def test_a_parameter_that_looks_like_a_secret_is_refused_before_anything_is_sent(command: Command, kfp: Kfp) -> None:
    line = submit(command, "--repeat", "AKIAIOSFODNN7EXAMPLE").mistake()
    assert "--repeat" in line and "AKIA" not in line
    assert not kfp.requests


def test_the_stand_in_refuses_what_kfp_s_models_do_not_know() -> None:
    from tests.pipeline.kfp_server import Refused, checked

    checked({"display_name": "x", "experiment_id": "1"}, "V2beta1Run")
    with pytest.raises(Refused, match="not a V2beta1Run"):
        checked({"display_name": "x", "experiment": "1"}, "V2beta1Run")
