"""Verbs with ``engine: argo``, against a stand-in for the Kubernetes API in which Workflows stand as real ones were seen to."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines import argo, naming
from pipeline.engines import base as clients
from pipeline.engines.argo import run_state
from pipeline.engines.argo_state import TITLE
from sida import cancels, records
from sida.launch.annotations import IMAGES
from sida.stores import open_store
from tests.launch.kube_server import NAMESPACE, Answer, Kube
from tests.launch.kube_server import serve as serve_kube
from tests.pipeline.command import Command, Said
from tests.pipeline.facts import ARGO, befall_argo, play, train
from tests.pipeline.test_trainjobs import LAUNCHED
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.tracking.runs import Made, recipe

ENGINE = ("kfp:\n", f"engine: argo\nargo: {{namespace: {NAMESPACE}}}\nkfp:\n")
ARGO_PATH = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}"
RUN = re.compile(r"digits-\d{8}-\d{6}-[0-9a-f]{4}")


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Iterator[Kube]:
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(argo, "LOOK_SECONDS", 0.01)
    with serve_kube(tmp_path) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


@pytest.fixture
def s3(command: Command, s3_endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A change of the profile: to the run's store, as this machine reaches it."""
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("SIDA_STORE", f"s3://{BUCKET}/{place.name}")
    return "s3://bucket/sida", f"s3://{BUCKET}/{place.name}"


def mine(command: Command, *changes: tuple[str, str]) -> str:
    return command.profile(ENGINE, *changes)


def submit(command: Command, *more: str, changes: tuple[tuple[str, str], ...] = ()) -> Said:
    return command("submit", "digits", "--profile", mine(command, *changes), *more)


def only(kube: Kube, kind: str = "workflows") -> dict[str, Any]:
    (thing,) = kube.objects[kind].values()
    return thing


def run_of(kube: Kube) -> str:
    return str(only(kube)["metadata"]["name"])


def line_of(said: Said, step: str) -> str:
    (line,) = (line for line in said.out.splitlines() if line.split()[0] == step)
    return " ".join(line.split())


def story(kube: Kube, *moments: str | Callable[[str], None]) -> None:
    """Let each look at a Workflow find it in the next of these; the last one stays."""
    left = [*moments]

    def move(method: str, path: str) -> None:
        name = path.rpartition("/workflows/")[2]
        if method == "GET" and "/workflows/" in path and left:
            moment = left.pop(0)
            play(kube, name, moment) if isinstance(moment, str) else moment(name)

    kube.before = move


# -- submit


def test_submit_creates_a_template_and_a_workflow_and_prints_the_run_s_id_alone(command: Command, kube: Kube) -> None:
    said = submit(command, "--repeat", "monday")
    assert said.status == 0, said.err
    template, workflow = only(kube, "workflowtemplates"), only(kube)
    run = run_of(kube)
    assert RUN.fullmatch(run)
    assert said.out == f"{run}\n"
    assert f"kubectl -n work get workflow {run}\n" in said.err
    assert f"{template['metadata']['name']}: uploaded" in said.err
    assert template["metadata"]["annotations"]["sida/sha256"][:12] == template["metadata"]["name"][-12:]
    assert workflow["spec"]["workflowTemplateRef"] == {"name": template["metadata"]["name"]}
    given = {one["name"]: one["value"] for one in workflow["spec"]["arguments"]["parameters"]}
    assert given == {"recipe": "digits", "repeat": "monday"}
    assert workflow["metadata"]["annotations"]["workflows.argoproj.io/title"].startswith("digits 20")
    assert not kube.objects["cronworkflows"]


def test_a_template_is_created_only_when_what_it_says_has_changed(command: Command, kube: Kube) -> None:
    submit(command)
    assert "already there" in submit(command).err
    assert (len(kube.objects["workflowtemplates"]), len(kube.objects["workflows"])) == (1, 2)
    assert "uploaded" in submit(command, changes=(("  memory: 2Gi", "  memory: 3Gi"),)).err
    assert len(kube.objects["workflowtemplates"]) == 2
    repeats = {
        one["value"]
        for workflow in kube.objects["workflows"].values()
        for one in workflow["spec"]["arguments"]["parameters"]
        if one["name"] == "repeat"
    }
    assert repeats == {"reuse"}


def test_a_workflow_whose_answer_is_lost_or_is_none_is_started_once_and_named(
    command: Command, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.lose_answers = 2  # of the template, and of the Workflow
    first = submit(command)
    assert (first.status, kube.lose_answers) == (0, 0)
    real = kube.answer

    def spoiled(method: str, path: str, query: dict[str, str], body: Any) -> Any:
        said = real(method, path, query, body)
        return [] if method == "POST" and path.endswith("/workflows") else said

    monkeypatch.setattr(kube, "answer", spoiled)
    second = submit(command)
    assert second.status == 0
    assert [first.out.strip(), second.out.strip()] == list(kube.objects["workflows"])


def test_with_a_server_of_argo_s_the_link_is_its_page(command: Command, kube: Kube) -> None:
    at = (f"namespace: {NAMESPACE}}}", f"namespace: {NAMESPACE}, ui: 'https://argo.test/'}}")
    said = submit(command, "--json", changes=(at,))
    told = json.loads(said.out)
    assert told["link"] == f"https://argo.test/workflows/work/{told['run']}"


def test_a_workflow_that_met_a_controller_before_its_template_is_started_anew(command: Command, kube: Kube) -> None:
    assert ARGO["overlooked"]["status"]["message"] == 'workflowtemplates.argoproj.io "sida-retried" not found'
    kube.overlooked = 2
    said = submit(command)
    assert said.status == 0
    assert said.out.strip() == run_of(kube)  # the other two are gone
    assert only(kube)["status"]["phase"] == "Running"


def test_without_a_controller_the_run_is_left_to_wait(
    command: Command, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argo, "NOTICE_SECONDS", 0.05)

    def nobody_looks(method: str, path: str) -> None:
        for workflow in kube.objects["workflows"].values():
            workflow.pop("status", None)

    kube.before = nobody_looks
    said = submit(command)
    assert said.status == 0
    assert "PENDING" in command("status", "--profile", mine(command)).out


def test_a_recipe_of_one_s_own_travels_through_the_store(command: Command, kube: Kube, s3: tuple[str, str]) -> None:
    own = command.place / "own.yaml"
    own.write_text("extends: digits\nname: own\ndescription: mine\n")
    said = command("submit", str(own), "--profile", mine(command, s3))
    assert said.status == 0, said.err
    given = {one["name"]: one["value"] for one in only(kube)["spec"]["arguments"]["parameters"]}
    assert re.fullmatch(r"own#sha256=[0-9a-f]{64}", given["recipe"])
    assert run_of(kube).startswith("own-")


# -- how a run goes on


@pytest.mark.parametrize(
    ("end", "status", "last"), [("succeeded", 0, ": SUCCEEDED"), ("failed", 1, ": FAILED: prepare_data: ")]
)
def test_wait_shows_each_change_once_and_ends_as_the_run_does(
    command: Command, kube: Kube, end: str, status: int, last: str
) -> None:
    story(kube, "running", "running", end)
    said = submit(command, "--wait")
    assert said.status == status, said.err
    lines = [line.split()[:2] for line in said.err.splitlines() if line.startswith(("prepare_data", "look_up"))]
    if end == "failed":
        assert lines == [["look_up", "SUCCEEDED"], ["prepare_data", "RUNNING"], ["prepare_data", "FAILED"]]
    else:
        assert lines == [["look_up", "SUCCEEDED"], ["prepare_data", "RUNNING"], ["prepare_data", "SUCCEEDED"]]
    assert said.err.splitlines()[-1].startswith(f"run {run_of(kube)}{last}"), said.err


def test_wait_ends_with_scores_verdict_and_the_report_as_run_does(
    command: Command, kube: Kube, s3: tuple[str, str]
) -> None:
    store = open_store(s3[1])

    def ends(name: str) -> None:
        play(kube, name, "succeeded")
        Made(store, recipe(), (0.6, 0.61, 0.59)).write(name)

    story(kube, "running", ends)
    said = submit(command, "--wait", changes=(s3,))
    assert said.status == 0, said.err
    run = run_of(kube)
    assert said.out == f"{run}\n"
    lines = said.err.splitlines()
    table = next(at for at, line in enumerate(lines) if line.startswith("digits 8x8"))
    assert "mean +- sd over 3 held-out seed ranges" in lines[table]
    assert "0.600 +- 0.010" in lines[table + 2]
    assert "The generator is level with its teacher." in lines[table:]
    generator, samples, report, where = lines[-7:-3]
    assert generator.startswith(f"generator  {s3[1]}/objects/")
    assert samples.startswith(f"samples    {s3[1]}/objects/")
    assert where.startswith(f"run        {s3[1]}/steps/compare/")
    page = command.place / "runs" / run / "report.html"
    assert report == f"report     file://{page}" and page.read_text().startswith("<!doctype html>")
    assert lines[-1] == f"run {run}: SUCCEEDED"
    assert re.fullmatch(r"done in \d+\.\d s; 0 of 8 steps reused", lines[-2]), lines[-2]


def test_a_result_that_cannot_be_looked_at_is_said(command: Command, kube: Kube) -> None:
    story(kube, "running", "succeeded")
    said = submit(command, "--wait")  # its store is not there
    assert said.status == 0
    assert said.err.count("could not look at records in s3://bucket/sida (") == 1  # and why
    assert said.err.splitlines()[-2].startswith("scores and verdict are not shown")


def test_an_image_that_cannot_be_pulled_is_told_and_given_up_with_status_3(command: Command, kube: Kube) -> None:
    def waits(name: str) -> None:
        play(kube, name, "running")
        befall_argo(kube, name, "prepare-data", "image")

    story(kube, waits)
    said = submit(command, "--wait", "--stuck", "0.0005")
    assert said.status == 3
    assert "the image cannot be pulled" in said.err.splitlines()[-1]
    assert only(kube)["spec"].get("shutdown") is None  # the run goes on
    line = line_of(command("status", run_of(kube), "--profile", mine(command)), "prepare_data")
    assert line.startswith("prepare_data WAITING the image cannot be pulled"), line


@pytest.mark.parametrize(
    ("what", "pod", "step", "words"),
    [
        ("failed", "exit", "prepare_data", "FAILED ended with exit status 2 ("),
        ("failed", "", "prepare_data", "FAILED failed: main: Error (exit code 2)"),  # its pod is gone
        ("retried", "", "compare", "FAILED failed: main: Error (exit code 75)"),
        ("deadline", "deadline", "prepare_data", "FAILED ran longer than 5 s (timeout_seconds"),
        ("deadline", "", "prepare_data", "FAILED ran longer than"),
        ("failed", "oom", "prepare_data", "FAILED killed for memory (OOMKilled): the limit is 16Mi ("),
    ],
)
def test_a_failed_step_says_why_and_those_after_it_did_not_start(
    command: Command, kube: Kube, what: str, pod: str, step: str, words: str
) -> None:
    submit(command)
    run = run_of(kube)
    play(kube, run, what)
    if pod:
        befall_argo(kube, run, step.replace("_", "-"), pod)
    said = command("status", run, "--profile", mine(command))
    assert said.status == 1
    assert line_of(said, step).startswith(f"{step} {words}"), said.out
    assert line_of(said, "report") == "report NOT STARTED"
    assert line_of(said, "fetch_teacher") == "fetch_teacher SUCCEEDED"  # it was published already
    (last,) = (line for line in said.out.splitlines() if line.startswith("digits "))
    state = "TIMED OUT" if what == "deadline" else "FAILED"
    assert f": {state}: {step}: " in last
    assert said.out.splitlines()[-1] == f"kubectl -n work get workflow {run}"


def test_a_pod_that_was_lost_and_tried_again_is_no_failure(command: Command, kube: Kube) -> None:
    submit(command)
    play(kube, run_of(kube), "deleted")
    said = command("status", run_of(kube), "--profile", mine(command))
    assert (said.status, line_of(said, "compare")) == (0, "compare SUCCEEDED")


def test_a_trainjob_shows_its_progress_until_it_has_ended(command: Command, kube: Kube) -> None:
    submit(command, changes=LAUNCHED)
    run = run_of(kube)
    play(kube, run, "running")
    train(kube, run, "prepare_data", "room")
    job = only(kube, "trainjobs")
    job["metadata"]["annotations"] = {IMAGES: "0/2048"}
    job["status"] = {"jobsStatus": [{"name": "node", "ready": 2}]}
    kube.forbidden.add(("get", "pods"))  # its own counts have to do

    def line() -> str:
        return line_of(command("status", run, "--profile", mine(command, *LAUNCHED)), "prepare_data")

    assert line().endswith("TrainJob room: its pods run, 0 of 2,048 images")
    job["status"] = {"conditions": [{"type": "Complete", "status": "True", "reason": "JobsCompleted"}]}
    assert line().endswith("TrainJob room: Complete (JobsCompleted)")


def test_steps_stand_in_the_order_of_the_dag_each_once(command: Command, kube: Kube) -> None:
    submit(command)
    play(kube, run_of(kube), "succeeded")
    told = json.loads(command("status", run_of(kube), "--profile", mine(command), "--json").out)
    names = [step["name"] for step in told["steps"]]
    assert names == [
        "look_up",
        "fetch_teacher",
        "prepare_data",
        "reference_statistics",
        "score_teacher",
        "distill",
        "score",
        "compare",
        "report",
        "record_end",
    ]
    assert {step["state"] for step in told["steps"]} == {"SUCCEEDED"}


def test_a_run_that_waits_for_a_semaphore_says_so(command: Command, kube: Kube) -> None:
    lock = "Waiting for work/ConfigMap/limits/runs lock. Lock status: 0/1"

    def waits(name: str) -> None:
        kube.objects["workflows"][name]["status"] = {"phase": "Pending", "message": lock}

    story(kube, waits, waits, "succeeded")
    said = submit(command, "--wait", "--name", "mine")
    assert said.err.splitlines().count(f"mine: PENDING: {lock}") == 1
    kube.before = lambda method, path: None
    waits(run_of(kube))
    assert f"mine: PENDING: {lock}\n" in command("status", run_of(kube), "--profile", mine(command)).out
    told = json.loads(command("status", run_of(kube), "--profile", mine(command), "--json").out)
    assert (told["state"], told["error"]) == ("PENDING", "")


@pytest.mark.parametrize("what", ARGO)
def test_every_state_that_was_seen_is_read(what: str) -> None:
    seen = run_state(ARGO[what])
    phase = ARGO[what]["status"]["phase"]
    assert seen.ended == (phase not in ("Running",))
    if seen.ended:  # of a Workflow that was stopped nodes stay Running
        assert {task.state for task in seen.tasks} <= {"SUCCEEDED", "FAILED", ""}
        assert all(task.ended for task in seen.tasks if task.state)
    assert bool(seen.cancelled) == ("shutdown" in ARGO[what]["spec"])
    assert seen.state == {"stopping": "CANCELING", "overlooked": "FAILED"}.get(what, seen.state)


def test_a_large_workflow_s_nodes_are_read_from_their_packed_form(command: Command, kube: Kube) -> None:
    import base64
    import gzip

    submit(command)
    play(kube, run_of(kube), "failed")
    status = only(kube)["status"]
    packed = gzip.compress(json.dumps(status.pop("nodes")).encode())
    status["compressedNodes"] = base64.b64encode(packed).decode()
    said = command("status", run_of(kube), "--profile", mine(command))
    assert line_of(said, "prepare_data").startswith("prepare_data FAILED failed: main: Error (exit code 2)")


def test_without_a_run_status_lists_the_newest_of_ours(command: Command, kube: Kube) -> None:
    assert "no runs in namespace work" in command("status", "--profile", mine(command)).out
    for number, what in enumerate(("succeeded", "stopped", "running")):
        made = json.loads(json.dumps(ARGO[what]))
        made["metadata"] |= {"name": f"run-{number}", "creationTimestamp": f"2026-11-28T14:2{number}:00Z"}
        kube.record("workflows", "ADDED", made)
    others = {"name": "x", "labels": {}, "creationTimestamp": "2026-11-28T15:00:00Z"}
    kube.record("workflows", "ADDED", {"metadata": others, "spec": {}})
    said = command("status", "--profile", mine(command), "--last", "2")
    assert [line.split()[:3] for line in said.out.splitlines()] == [
        ["run-2", "2026-11-28T14:22:00+00:00", "RUNNING"],
        ["run-1", "2026-11-28T14:21:00+00:00", "CANCELLED"],
    ]
    told = json.loads(command("status", "--profile", mine(command), "--json").out)
    assert [run["state"] for run in told["runs"]] == ["RUNNING", "CANCELLED", "SUCCEEDED"]
    assert told["place"] == "namespace work"


def test_logs_are_the_pod_s_without_argo_s_own_lines_then_the_copy_in_the_store(
    command: Command, kube: Kube, s3: tuple[str, str]
) -> None:
    submit(command, changes=(s3,))
    run = run_of(kube)
    pod = befall_argo(kube, run, "prepare-data", "exit")
    kube.closed_logs.add(pod)
    said = command("logs", run, "prepare_data", "--profile", mine(command, s3))
    assert (said.status, said.out) == (0, "a line of the step\n"), said.err
    kube.objects["pods"].clear()
    open_store(f"s3://{BUCKET}/{command.place.name}").put(f"runs/{run}/logs/prepare_data.txt", b"kept\n")
    assert command("logs", run, "prepare-data", "--profile", mine(command, s3)).out == "kept\n"
    assert "no log" in command("logs", run, "score", "--profile", mine(command, s3)).mistake()


# -- cancel


def test_cancel_stops_the_workflow_ends_its_trainjobs_and_is_recorded(
    command: Command, kube: Kube, s3: tuple[str, str]
) -> None:
    changes = (*LAUNCHED, s3)
    submit(command, changes=changes)
    run = run_of(kube)
    play(kube, run, "running")
    train(kube, run, "distill", "room")
    said = command("cancel", run, "--profile", mine(command, *changes))
    assert said.status == 0, said.err
    assert ": cancelling\n" in said.out
    assert only(kube)["spec"]["shutdown"] == "Stop"
    assert re.fullmatch(r"20.*\+00:00", only(kube)["metadata"]["annotations"]["sida/cancelled"])
    assert not kube.objects["trainjobs"]
    request = cancels.cancel_of(open_store(f"s3://{BUCKET}/{command.place.name}"), run)
    assert request is not None and "by `cancel`" in request.how
    assert "CANCELING" in command("status", "--profile", mine(command)).out
    patched = [line for line in kube.requests if line.startswith("PATCH")]
    command("cancel", run, "--profile", mine(command, *changes))
    assert [line for line in kube.requests if line.startswith("PATCH")] == patched  # once
    play(kube, run, "stopped")
    again = command("cancel", run, "--profile", mine(command, *changes))
    assert "had ended already, CANCELLED" in again.out


@pytest.mark.parametrize("what", ["stopped", "noimage"])
def test_wait_calls_a_run_cancelled_that_somebody_stopped_with_argo_s_own_command(
    command: Command, kube: Kube, what: str
) -> None:
    story(kube, "running", what)
    said = submit(command, "--wait")
    assert said.status == 1
    assert f"run {run_of(kube)}: CANCELLED: cancelled at 2026-" in said.err.splitlines()[-1]
    assert "Argo Workflows" in said.err.splitlines()[-1]
    shown = command("status", run_of(kube), "--profile", mine(command))
    assert line_of(shown, "prepare_data") == "prepare_data CANCELLED"


# -- schedules


def schedule(command: Command, *more: str, changes: tuple[tuple[str, str], ...] = ()) -> Said:
    return command("schedule", "digits", "--profile", mine(command, *changes), *more)


def test_a_schedule_measures_anew_each_time_and_is_made_once(command: Command, kube: Kube) -> None:
    assert schedule(command, "--cron", "0  3 * * 1").out == "sida-digits: created, 0 3 * * 1\n"
    made = only(kube, "cronworkflows")["spec"]
    assert (made["schedules"], made["timezone"], made["suspend"]) == (["0 3 * * 1"], "Etc/UTC", False)
    assert (made["concurrencyPolicy"], made["startingDeadlineSeconds"]) == ("Forbid", 0)
    given = {one["name"]: one["value"] for one in made["workflowSpec"]["arguments"]["parameters"]}
    assert given == {"recipe": "digits", "repeat": "scheduled"}
    assert made["workflowSpec"]["workflowTemplateRef"]["name"] in kube.objects["workflowtemplates"]
    assert made["workflowMetadata"]["labels"]["app.kubernetes.io/part-of"] == "sida"  # `status` lists its runs
    before = json.dumps(kube.objects["cronworkflows"])
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: unchanged, 0 3 * * 1\n"
    assert json.dumps(kube.objects["cronworkflows"]) == before


def test_a_changed_schedule_shows_the_difference_and_is_changed_in_one_call(command: Command, kube: Kube) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    kube.requests.clear()
    said = schedule(command, "--cron", "0 4 * * 1")
    assert said.out.splitlines() == ["sida-digits: changed", "- cron: 0 3 * * 1", "+ cron: 0 4 * * 1"]
    writes = [line.split()[0] for line in kube.requests if not line.startswith("GET") and "cronworkflows" in line]
    assert writes == ["PATCH"]
    lines = schedule(command, "--cron", "0 4 * * 1", changes=(("  memory: 2Gi", "  memory: 3Gi"),)).out.splitlines()
    assert [line[:10] for line in lines[1:]] == ["- version:", "+ version:"]


def test_schedules_are_listed_paused_and_go_on_and_are_deleted_and_their_runs_stay(
    command: Command, kube: Kube
) -> None:
    schedule(command, "--cron", "0 3 * * 1")
    schedule(command, "--cron", "0 5 * * *", "--name", "daily")
    kube.record("workflows", "ADDED", json.loads(json.dumps(ARGO["scheduled"]).replace('"every"', '"sida-digits"')))
    assert schedule(command, "--pause").out == "sida-digits: paused\n"
    listed = schedule(command, "--list").out.splitlines()
    assert listed == ["sida-digits  0 3 * * 1  recipe digits  paused", "daily  0 5 * * *  recipe digits"]
    assert schedule(command, "--cron", "0 3 * * 1").out == "sida-digits: goes on, 0 3 * * 1\n"
    assert not kube.objects["cronworkflows"]["sida-digits"]["spec"]["suspend"]
    assert schedule(command, "--delete").out == "sida-digits: deleted\n"
    assert list(kube.objects["cronworkflows"]) == ["daily"]
    assert only(kube)["metadata"]["ownerReferences"][0]["name"] == "sida-digits"
    assert "'sida-digits'" in schedule(command, "--delete").mistake()


@pytest.mark.parametrize("name", ["My Benchmark", "daily_", "-x", "x" * 51])
def test_a_name_that_kubernetes_does_not_take_is_refused_and_no_schedule_made(
    command: Command, kube: Kube, name: str
) -> None:
    line = schedule(command, "--cron", "0 3 * * 1", f"--name={name}").mistake()
    assert name in line and "50" in line
    assert not kube.objects["cronworkflows"]


def test_a_wrong_cron_sends_nothing(command: Command, kube: Kube) -> None:
    assert "'25'" in schedule(command, "--cron", "0 25 * * *").mistake()
    assert not kube.requests


# -- rerun, doctor


def test_rerun_submits_a_workflow_of_the_recorded_step(command: Command, kube: Kube, s3: tuple[str, str]) -> None:
    from types import SimpleNamespace

    from sida.data.prepare import prepare_data
    from sida.steps.execute import execute

    store = open_store(f"s3://{BUCKET}/{command.place.name}")
    output = SimpleNamespace(path=str(command.place / "dataset"), metadata={})
    execute(prepare_data, output, recipe="digits", attempt="", run_id="the-run")
    call = records.call_of(store, "the-run", "prepare_data")
    assert call.image == ""  # of this machine: the profile's present image is taken
    said = command("rerun", "the-run", "prepare_data", "--profile", mine(command, s3), "--submit", "--force")
    assert said.status == 0, said.err
    run = run_of(kube)
    assert re.fullmatch(r"rerun-prepare-data-\d{8}-\d{6}-[0-9a-f]{4}", run)
    assert run in said.out
    made = only(kube)
    (template,) = made["spec"]["templates"]
    assert template["container"]["args"] == ["--recipe=digits", "--run-id=the-run", "--attempt=new"]
    assert made["metadata"]["annotations"]["workflows.argoproj.io/title"] == "prepare_data of the-run again"
    assert "rerun-prepare-data" in command("status", "--profile", mine(command, s3)).out


def test_doctor_says_whether_argo_s_objects_are_served(command: Command, kube: Kube) -> None:
    def engine() -> dict[str, Any]:
        checks = json.loads(command("doctor", "--json", "--profile", mine(command)).out)["checks"]
        return dict(next(check for check in checks if check["name"] == "engine"))

    seen = engine()
    assert seen["state"] == "ok" and "Argo Workflows" in seen["found"] and "namespace work" in seen["found"]
    kube.argo = False
    seen = engine()
    assert seen["state"] == "bad" and "docs/argo.md" in seen["found"] and seen["mend"]


def test_doctor_looks_for_the_account_and_token_of_argo_s_own_containers(command: Command, kube: Kube) -> None:
    core = f"/api/v1/namespaces/{NAMESPACE}"
    data = {"data": {"access-key": "eA==", "secret-key": "eA=="}}
    accounts = {f"{core}/serviceaccounts/{name}": {"metadata": {"name": name}} for name in ("runner", "sida-argo")}
    kube.plain = accounts | {core: {"metadata": {"name": NAMESPACE}}}
    kube.plain |= {f"{core}/secrets/{name}": data for name in ("sida-store", "registry")}
    token = f"{core}/secrets/sida-argo.service-account-token"

    def seen(check: str) -> tuple[str, str]:
        told = json.loads(command("doctor", "--json", "--profile", mine(command)).out)["checks"]
        return next((one["state"], one["found"]) for one in told if one["name"] == check)

    assert seen("accounts") == ("ok", "work/runner, work/sida-argo")
    state, found = seen("secrets")
    assert state == "bad" and "work/sida-argo.service-account-token is missing" in found
    kube.plain[token] = {"data": {}}
    assert "has no key token" in seen("secrets")[1]
    kube.plain[token] = {"data": {"token": "eA=="}}
    assert seen("secrets")[0] == "ok"
    del kube.plain[f"{core}/serviceaccounts/sida-argo"]
    assert "work/sida-argo is missing" in seen("accounts")[1]


# -- what goes wrong


def refusal(command: Command, kube: Kube, verb: str, *more: str) -> str:
    return command(verb, *more, "--profile", mine(command)).mistake()


def test_an_unknown_run_is_named_with_where_to_look(command: Command, kube: Kube) -> None:
    for verb in ("status", "cancel"):
        line = refusal(command, kube, verb, "nobody")
        assert "'nobody'" in line and "7 days" in line
    assert "/" in refusal(command, kube, "status", "../x")


@pytest.mark.parametrize(
    ("verb", "kind", "arguments", "doing"),
    [
        ("post", "workflowtemplates", ("submit", "digits"), "create WorkflowTemplates"),
        ("post", "workflows", ("submit", "digits"), "create Workflows"),
        ("get", "workflows", ("status",), "list Workflows"),
        ("get", "workflows", ("status", "x"), "read Workflows"),
        ("get", "cronworkflows", ("schedule", "--list"), "list CronWorkflows"),
        ("post", "cronworkflows", ("schedule", "digits", "--cron", "0 3 * * 1"), "create CronWorkflows"),
    ],
)
def test_what_one_may_not_is_one_line_that_names_the_role(
    command: Command, kube: Kube, verb: str, kind: str, arguments: tuple[str, ...], doing: str
) -> None:
    kube.forbidden = {(verb, kind)}
    said = command(*arguments, "--profile", mine(command))
    line = said.err.splitlines()[-1]
    assert (said.status, said.out) == (2, "")
    assert f"not allowed to {doing} in namespace work" in line
    assert "sida-argo-user" in line


@pytest.mark.parametrize(
    ("verb", "kind", "changed"), [("patch", "workflows", "stop"), ("delete", "cronworkflows", "delete")]
)
def test_what_one_may_not_change_is_left_as_it_is(
    command: Command, kube: Kube, verb: str, kind: str, changed: str
) -> None:
    submit(command)
    schedule(command, "--cron", "0 3 * * 1")
    kube.forbidden = {(verb, kind)}
    more = ("cancel", run_of(kube)) if kind == "workflows" else ("schedule", "digits", "--delete")
    assert f"not allowed to {changed}" in refusal(command, kube, *more)
    assert "shutdown" not in only(kube)["spec"] and kube.objects["cronworkflows"]


def test_a_cluster_without_argo_is_told_so(command: Command, kube: Kube) -> None:
    kube.argo = False
    for arguments in (("submit", "digits"), ("status",), ("schedule", "--list")):
        line = refusal(command, kube, *arguments)
        assert "serves no Argo Workflows" in line and "docs/argo.md" in line


def test_what_the_api_refuses_otherwise_is_passed_on_in_one_line(command: Command, kube: Kube) -> None:
    def refuse(method: str, path: str) -> None:
        if method == "POST":
            raise Answer(422, "Invalid", "spec.templates: a line\nand another")

    kube.before = refuse
    assert "422 spec.templates: a line and another" in refusal(command, kube, "submit", "digits")


def test_an_api_that_is_away_is_one_line_and_wait_gets_over_a_minute_of_it(
    command: Command, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sida.launch import cluster as kubernetes

    monkeypatch.setattr(kubernetes.Cluster, "pause", lambda self, seconds: setattr(self, "outage_seconds", 0.0))
    story(kube, "running", lambda name: kube.go_away())
    away = [5]

    def answered(self: Any, run_id: str, *, call: Any = argo.ArgoClient.run) -> Any:
        if kube.away:
            away[0] -= 1
            if not away[0]:
                kube.come_back()
                play(kube, run_id, "succeeded")
        return call(self, run_id)

    monkeypatch.setattr(argo.ArgoClient, "run", answered)
    said = submit(command, "--wait")
    assert said.status == 0, said.err
    kube.go_away()
    line = refusal(command, kube, "status")
    assert "127.0.0.1" in line and "error" in line


def packed(content: bytes) -> dict[str, Any]:
    return {"status": {"phase": "Running", "compressedNodes": base64.b64encode(content).decode()}}


NODE = {"name": "r1.distill", "type": "Pod", "templateName": "distill", "phase": "Running"}
WORKFLOW = {
    "metadata": {"name": "r1"},
    "spec": {"templates": [{"name": "distill"}]},
    "status": {"phase": "Running", "nodes": {"a": NODE}},
}
LIES: dict[str, dict[str, Any]] = {
    "a phase of its own": {"status": {"phase": "Dancing"}},
    "a list for a phase": {"status": {"phase": ["x"]}},
    "no spec": {"spec": None},
    "a list of nodes": {"status": {"nodes": ["x"]}},
    "a text for a node": {"status": {"nodes": {"a": "x"}}},
    "a node without a name": {"status": {"nodes": {"a": {"templateName": "distill"}}}},
    "a number of templates": {"spec": {"templates": 3}},
    "a template without a name": {"spec": {"templates": [{}]}},
    "a text for a template": {"spec": {"templates": ["x"]}},
    "no metadata": {"metadata": None},
    "a number for a name": {"metadata": {"name": 5}},
    "a text for annotations": {"metadata": {"name": "r1", "annotations": "x"}},
    "a list for a status": {"status": ["x"]},
    "packed nodes that are no base64": {"status": {"compressedNodes": "!!!"}},
    "packed nodes that are no gzip": packed(b"hello"),
    "packed nodes that are cut off": packed(gzip.compress(b"{}")[:-4]),
    "packed nodes that are no JSON": packed(gzip.compress(b"{")),
    "packed nodes that are a list": packed(gzip.compress(b"[1]")),
    "a packed node that is a text": packed(gzip.compress(b'{"a": "x"}')),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_workflow_that_is_none_is_one_line_about_what_answers(
    command: Command, kube: Kube, lie: dict[str, Any]
) -> None:
    said = f"{ARGO_PATH}/workflows"
    kube.plain = {f"{said}/r1": WORKFLOW}
    assert command("status", "r1", "--profile", mine(command)).status == 0
    kube.plain = {f"{said}/r1": WORKFLOW | lie}
    for verb in ("status", "cancel"):
        assert "does not answer as a Kubernetes API does (" in refusal(command, kube, verb, "r1")


def test_a_title_of_several_lines_is_one(command: Command, kube: Kube) -> None:
    submit(command)
    run = run_of(kube)
    only(kube)["metadata"]["annotations"][TITLE] = f"mine\n{run}  2026  SUCCEEDED\u2028 another {'x' * 1000}"
    for arguments in (("status",), ("cancel", run)):
        (line,) = command(*arguments, "--profile", mine(command)).out.splitlines()
        assert f"mine {run} 2026 SUCCEEDED another xxx" in line and len(line) < 400


def test_packed_nodes_are_unpacked_within_a_bound(command: Command, kube: Kube) -> None:
    bomb = packed(gzip.compress(b'{"a": "' + bytes(naming.NODES_BYTES)))
    kube.plain = {f"{ARGO_PATH}/workflows/r1": WORKFLOW | bomb}
    assert "more than 67,108,864 bytes" in refusal(command, kube, "status", "r1")
    kube.plain = {f"{ARGO_PATH}/workflows/r1": WORKFLOW | packed(gzip.compress(json.dumps({"a": NODE}).encode()))}
    assert line_of(command("status", "r1", "--profile", mine(command)), "distill").startswith("distill RUNNING")


def test_trainjobs_are_looked_for_before_anything_is_created(command: Command, kube: Kube) -> None:
    kube.runtimes.clear()
    line = command("submit", "digits", "--profile", mine(command, *LAUNCHED)).mistake()
    assert "sida-torch" in line
    assert not kube.objects["workflowtemplates"]
