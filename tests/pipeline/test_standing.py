"""What `status`, `submit --wait` and `logs` say of runs that wait, fail and end, against what real parts said of such runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines import base as clients
from sida import cancels, ending, records
from sida.stores import open_store
from tests.launch import kueue
from tests.launch.kube_server import Kube
from tests.launch.kube_server import serve as serve_kube
from tests.pipeline.command import Command, Said
from tests.pipeline.facts import KFP, befall, train, workflow
from tests.pipeline.kfp_server import EXIT_WORDS, FACTS, Kfp
from tests.pipeline.test_trainjobs import LAUNCHED
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.tracking.runs import Made, recipe

RUN = "8cb2a06c-7116-4f97-b6be-66f26c788ca6"


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Iterator[Kube]:
    with serve_kube(tmp_path) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


@pytest.fixture
def s3(command: Command, s3_endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run's store, as this machine reaches it."""
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("SIDA_STORE", f"s3://{BUCKET}/{place.name}")
    return f"s3://{BUCKET}/{place.name}"


@pytest.fixture
def status(command: Command, kfp: Kfp) -> Any:
    """`status` of a run that Kubeflow tells of in these words: a moment of a story, or a real answer."""

    def ask(story: Any, *changes: tuple[str, str], more: tuple[str, ...] = ()) -> Said:
        kfp.runs.setdefault(RUN, {"run_id": RUN, "display_name": "digits", "state": "RUNNING", "state_history": []})
        kfp.story = [story]
        return command("status", RUN, "--profile", command.profile(*changes), *more)

    return ask


def line_of(said: Said, step: str) -> str:
    (line,) = (line for line in said.out.splitlines() if line.split()[0] == step)
    return " ".join(line.split())


def running(task: str) -> tuple[str, dict[str, str]]:
    return "RUNNING", {task: "RUNNING", "compare": ""}


def failed(task: str) -> tuple[str, dict[str, str]]:
    return "FAILED", {task: "FAILED", "compare": ""}


# -- waiting for what


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("image", ["the image cannot be pulled: registry.test/sida@sha256:000", ": not found (sida-"]),
        ("room", ["no node has room: 0/1 nodes are available: 1 Insufficient cpu ("]),
        ("gpu", ["no node has room: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu ("]),
        ("secret", ["a Secret or ConfigMap is missing", 'secret "sida-store" not found']),
        ("key", ["a key in it: couldn't find key access-key in Secret kubeflow/sida-store"]),
        ("claim", ["a volume cannot be mounted", 'persistentvolumeclaim "datasets" not found']),
        ("mount", ["a volume cannot be mounted: MountVolume.SetUp failed", "/data is not a directory"]),
    ],
)
def test_a_step_that_waits_says_for_what(kube: Kube, status: Any, what: str, words: list[str]) -> None:
    befall(kube, RUN, "fetch-teacher", "running-driver", driver=True)
    befall(kube, RUN, "fetch-teacher", what)
    said = status(running("fetch-teacher"))
    line = line_of(said, "fetch_teacher")
    assert line.startswith("fetch_teacher WAITING ")
    assert all(word in line for word in words), line
    assert said.status == 0


def test_a_driver_that_does_not_begin_is_its_step_s_wait(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "fetch-teacher", "room", driver=True)
    only = ("RUNNING", {"fetch-teacher-driver": "RUNNING"})  # then Kubeflow does not show the step itself
    assert "WAITING no node has room" in line_of(status(only), "fetch_teacher")
    kube.objects["pods"].clear()
    befall(kube, RUN, "fetch-teacher", "running-driver", driver=True)
    assert line_of(status(only), "fetch_teacher") == "fetch_teacher NOT STARTED"


def test_where_not_even_the_first_driver_begins_it_is_named(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "exit-handler-1", "room", driver=True)
    said = status(("RUNNING", {"exit-handler-1-driver": "RUNNING"}))
    assert "exit-handler-1-driver WAITING no node has room" in line_of(said, "exit-handler-1-driver")


def test_a_step_that_runs_is_said_to(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "fetch-teacher", "running")
    assert line_of(status(running("fetch-teacher")), "fetch_teacher") == "fetch_teacher RUNNING"


def test_a_quota_that_lets_no_pod_be_made_is_read_from_the_workflow(kube: Kube, status: Any) -> None:
    refused = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=1'
    workflow(kube, RUN, fetch_teacher_driver=("Pending", refused))
    line = line_of(status(("RUNNING", {"fetch-teacher-driver": "PENDING"})), "fetch_teacher")
    assert "WAITING the namespace's quota is used up: exceeded quota: small, requested: pods=1" in line


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("quota", "1 of 2 pods run; the namespace's quota is used up: exceeded quota: small"),
        ("policy", 'an admission policy refuses the pod: violates PodSecurity "restricted:latest"'),
        ("room", "no node has room: 0/1 nodes are available: 1 Insufficient cpu (room-node-0-"),
        ("suspended", "it waits in a queue: TrainJob is suspended"),
    ],
)
def test_a_trainjob_that_waits_says_for_what(kube: Kube, status: Any, what: str, words: str) -> None:
    befall(kube, RUN, "distill", "running")  # the launching pod
    train(kube, RUN, "distill", what)
    line = line_of(status(running("distill"), *LAUNCHED), "distill")
    assert line.startswith(f"distill WAITING {words}"), line


def test_a_trainjob_in_a_queue_says_its_place_and_why(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "distill", "running")
    train(kube, RUN, "distill", "suspended")
    kube.job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpu"
    for waits in (kueue.pending("other"), kueue.pending("uid", made=1)):
        kube.record("workloads", "ADDED", waits)
    said = status(running("distill"), *LAUNCHED)
    assert line_of(said, "distill").startswith(
        f"distill WAITING it waits in a queue: place 2 of 2 in gpu: {kueue.PENDING}"
    )
    kube.record("workloads", "MODIFIED", kueue.preempted("uid", made=1))
    said = status(running("distill"), *LAUNCHED)
    assert "distill WAITING it had to give its place back: Preempted to accommodate" in line_of(said, "distill")
    kube.forbidden.add(("get", "workloads"))
    said = status(running("distill"), *LAUNCHED)
    assert "distill WAITING it waits in a queue: TrainJob is suspended" in line_of(said, "distill")
    assert "workloads in work (403, Forbidden)" in said.err


def test_the_other_node_of_a_trainjob_is_named(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "distill", "running")
    train(kube, RUN, "distill", "room")
    first = next(pod for name, pod in kube.objects["pods"].items() if name.startswith("room-node-0-0"))
    first["status"] = {"phase": "Running"}
    assert "1 of 2 pods run; no node has room" in line_of(status(running("distill"), *LAUNCHED), "distill")


# -- failed why


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("oom", "killed for memory (OOMKilled): the limit is 16Mi (sida-"),
        ("exit", "ended with exit status 2 (sida-"),
        ("deadline", "ran longer than 5 s (timeout_seconds of the profile) (sida-"),
    ],
)
def test_a_failed_step_says_why_and_so_does_the_last_line(kube: Kube, status: Any, what: str, words: str) -> None:
    befall(kube, RUN, "fetch-teacher", what)
    said = status(failed("fetch-teacher"))
    assert line_of(said, "fetch_teacher").startswith(f"fetch_teacher FAILED {words}")
    assert line_of(said, "compare") == "compare NOT STARTED"
    state = "TIMED OUT" if what == "deadline" else "FAILED"
    assert f"\ndigits: {state}: fetch_teacher: {words}" in said.out
    assert said.status == 1


def test_a_driver_s_last_error_is_read_from_its_log(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "distill", "fault-driver", driver=True)
    said = status("driver-failed")
    assert (
        "distill FAILED Kubeflow's driver of the step failed: failed to lookup existing execution: no execution found for "
        'type="system.ContainerExecution", name="" (sida-'
    ) in line_of(said, "distill")
    assert line_of(said, "score_teacher") == "score_teacher SUCCEEDED"


def test_the_driver_of_the_group_around_the_steps_is_named_too(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "exit-handler-1", "fault-driver", driver=True)
    said = status(("FAILED", {"exit-handler-1-driver": "FAILED"}))
    assert "digits: FAILED: exit-handler-1-driver: Kubeflow's driver of the step failed: failed to lookup" in said.out


def test_where_logs_may_not_be_read_the_driver_is_named_all_the_same(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "distill", "fault-driver", driver=True)
    kube.forbidden = {("get", "log")}
    said = status("driver-failed")
    assert "driver of the step failed: its log is gone" in line_of(said, "distill")
    assert "could not look at " in said.err and "logs in kubeflow (403, Forbidden)" in said.err


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("main: OOMKilled (exit code 137)", "killed for memory (OOMKilled)"),
        ("pod deleted", "its pod was deleted while it ran"),
        ("Pod was active on the node longer than the specified deadline", "ran longer than it was allowed to"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "it never began: an admission policy"),
        ("main: Error (exit code 2)", "failed: main: Error (exit code 2)"),
    ],
)
def test_of_pods_that_are_gone_the_workflow_still_knows(kube: Kube, status: Any, message: str, words: str) -> None:
    workflow(kube, RUN, fetch_teacher=("Failed", message))
    assert words in line_of(status(failed("fetch-teacher")), "fetch_teacher")


def test_what_is_gone_without_a_word_is_said_to_be(kube: Kube, status: Any, s3: str) -> None:
    said = status(failed("fetch-teacher"), ("s3://bucket/sida", s3))
    assert "its pod is gone, and nothing says why it failed" in line_of(said, "fetch_teacher")
    assert records.end_of(open_store(s3), RUN) is None  # who knows more may still say it


def test_a_worker_s_memory_explains_the_launching_pod_s_exit(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "distill", "exit")
    train(kube, RUN, "distill", "oom")
    assert "killed for memory (OOMKilled): the limit is 32Mi (oom-node-0-1" in line_of(
        status(failed("distill"), *LAUNCHED), "distill"
    )


def test_the_step_s_own_line_stands_above_all_others(kube: Kube, status: Any, s3: str) -> None:
    befall(kube, RUN, "fetch-teacher", "exit")
    records.failed(records.begin(RUN, "fetch_teacher", 1, {"recipe": "digits"}), "its sha256 is another: correct it")
    said = status("failed", ("s3://bucket/sida", s3))
    assert line_of(said, "fetch_teacher") == "fetch_teacher FAILED its sha256 is another: correct it"
    assert "digits: FAILED: fetch_teacher: its sha256 is another: correct it" in said.out


def test_a_pod_that_was_taken_off_its_node_is_told_before_what_the_step_said_then(
    kube: Kube, status: Any, s3: str
) -> None:
    name = befall(kube, RUN, "fetch-teacher", "exit")
    taken = {"type": "DisruptionTarget", "status": "True", "message": "Eviction API: evicting"}
    kube.objects["pods"][name]["status"].setdefault("conditions", []).append(taken)
    records.failed(records.begin(RUN, "fetch_teacher", 1, {"recipe": "digits"}), "stopped on request")
    said = status(failed("fetch-teacher"), ("s3://bucket/sida", s3))
    assert "FAILED its pod was taken off the node: Eviction API: evicting" in line_of(said, "fetch_teacher")


# -- ended how


def test_a_run_that_succeeded_says_which_steps_were_reused(kube: Kube, status: Any, s3: str) -> None:
    for step, reused in (("fetch_teacher", True), ("report", False)):
        call = records.begin(RUN, step, 1, {"recipe": "digits"})
        records.finished(call, f"{s3}/steps/{step}/ab/1.json", "d" * 64, reused)
    said = status("succeeded", ("s3://bucket/sida", s3))
    assert said.status == 0
    assert line_of(said, "fetch_teacher") == "fetch_teacher SUCCEEDED reused"
    assert "digits: SUCCEEDED\n" in said.out
    end = records.end_of(open_store(s3), RUN)  # its exit handler never ran: it is settled now
    assert end is not None and end.state == "SUCCEEDED"


def test_a_run_cancelled_in_kubeflow_s_own_pages_is_not_called_failed(kube: Kube, status: Any, s3: str) -> None:
    call = records.begin(RUN, "score_teacher", 1, {"recipe": "digits"})
    records.failed(call, "stopped on request; run again to continue from the last checkpoint")  # it was torn down
    said = status("cancelled", ("s3://bucket/sida", s3))
    assert line_of(said, "score_teacher") == "score_teacher CANCELLED"
    assert "digits: CANCELLED: cancelled at 2026-11-28T14:26:03+00:00 (in Kubeflow Pipelines)" in said.out
    assert said.status == 1
    end = ending.ending_of(open_store(s3), RUN)
    assert end is not None and end.state == "CANCELLED"


def test_what_a_cancelled_run_waited_for_is_remembered(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "prepare-data", "image")
    said = status("noimage")
    assert "prepare_data CANCELLED it never began: the image cannot be pulled" in line_of(said, "prepare_data")
    assert ": CANCELLED: cancelled at" in said.out and "; prepare_data: it never began" in said.out


def test_cancel_is_remembered_by_the_store_for_everybody_later(
    command: Command, kfp: Kfp, s3: str, status: Any
) -> None:
    records.begin(RUN, "distill", 1, {"recipe": "digits"})
    status(running("distill"))
    mine = command.profile(("s3://bucket/sida", s3))
    assert "cancelling" in command("cancel", RUN, "--profile", mine).out
    mark = cancels.cancel_of(open_store(s3), RUN)
    assert mark is not None and mark.how == "by `cancel`"
    said = cancels.asked_in_words(open_store(s3), RUN)  # to a step whose TrainJob is gone
    assert said == f"cancelled at {mark.asked} (by `cancel`)"
    assert cancels.asked_in_words(open_store(s3), "") == cancels.asked_in_words(open_store(s3), "another") == ""
    end = ending.end_by_records(RUN, "digits", EXIT_WORDS["cancelled"], 0, "")  # the exit handler
    assert end.state == "CANCELLED"
    kfp.runs[RUN] |= json.loads((FACTS / "cancelled.json").read_text())
    assert "CANCELLED: cancelled at" in command("status", RUN, "--profile", mine).out
    assert f"{RUN}: CANCELLED: cancelled at" in command("status", RUN).out  # from the store alone


def test_a_run_that_is_seen_while_it_is_cancelled_is_remembered_too(
    command: Command, kfp: Kfp, s3: str, status: Any
) -> None:
    records.begin(RUN, "distill", 1, {"recipe": "digits"})
    mine = ("s3://bucket/sida", s3)
    status(running("distill"), mine)
    kfp.answer("POST", f"runs/{RUN}:terminate", {}, None)  # in Kubeflow's pages
    status(running("distill"), mine)
    mark = cancels.cancel_of(open_store(s3), RUN)
    assert mark is not None and "seen" in mark.how


def test_a_store_that_cannot_be_reached_does_not_keep_a_run_from_being_cancelled(
    command: Command, kfp: Kfp, status: Any
) -> None:
    status(running("distill"))
    said = command("cancel", RUN, "--profile", command.profile())
    assert said.status == 0 and kfp.runs[RUN]["state"] == "CANCELING"
    assert "not recorded in the store" in said.err


def test_the_reason_that_an_exit_handler_could_not_know_is_written_over_its_guess(
    kube: Kube, status: Any, s3: str
) -> None:
    befall(kube, RUN, "prepare-data", "oom")
    records.begin(RUN, "prepare_data", 1, {"recipe": "digits"})
    ending.end_by_records(RUN, "digits", EXIT_WORDS["oom"], 0, "")
    before = records.end_of(open_store(s3), RUN)
    assert before is not None and not before.sure and "prepare_data was at work" in before.message
    status("oom", ("s3://bucket/sida", s3))
    after = records.end_of(open_store(s3), RUN)
    assert after is not None and after.message.startswith(
        "prepare_data: killed for memory (OOMKilled): the limit is 16Mi"
    )


# -- where one may not look


def test_what_could_not_be_looked_at_is_one_line_and_the_rest_is_shown(kube: Kube, status: Any, s3: str) -> None:
    befall(kube, RUN, "fetch-teacher", "mount")
    kube.forbidden = {("get", "events")}
    said = status(running("fetch-teacher"), ("s3://bucket/sida", s3))
    assert "WAITING it is starting" in line_of(said, "fetch_teacher")
    assert said.err.splitlines() == ["could not look at events in kubeflow (403, Forbidden)"]
    kube.forbidden = {("get", "pods"), ("get", "workflows")}
    said = status(failed("fetch-teacher"), ("s3://bucket/sida", s3))
    assert "nothing that can be looked at from here says why" in line_of(said, "fetch_teacher")
    assert said.err.splitlines() == ["could not look at pods, workflows in kubeflow (403, Forbidden)"]


def test_a_trainjob_whose_pods_may_not_be_looked_at_is_judged_by_its_own_counts(kube: Kube, status: Any) -> None:
    train(kube, RUN, "distill", "quota")
    kube.forbidden = {("get", "pods")}
    assert "WAITING the namespace's quota is used up" in line_of(status(running("distill"), *LAUNCHED), "distill")
    kube.counts(active=1, ready=1)
    line = line_of(status(running("distill"), *LAUNCHED), "distill")
    assert line == "distill RUNNING TrainJob quota: its pods run"


def test_without_a_way_to_the_cluster_or_the_store_kubeflow_s_own_states_are_shown(status: Any) -> None:
    said = status(running("fetch-teacher"))
    assert said.status == 0
    assert line_of(said, "fetch_teacher") == "fetch_teacher RUNNING"
    (line,) = said.err.splitlines()
    assert "no Kubernetes cluster is configured here" in line and "records in s3://bucket/sida" in line


def test_an_api_server_that_is_away_is_told_from_one_that_refuses(kube: Kube, status: Any) -> None:
    kube.go_away()
    said = status(running("fetch-teacher"))
    assert "pods, workflows in kubeflow (the Kubernetes API at http://127.0.0.1:" in said.err
    assert "does not answer (" in said.err


def test_programs_are_told_the_same(kube: Kube, status: Any) -> None:
    befall(kube, RUN, "fetch-teacher", "image")
    told = json.loads(status(running("fetch-teacher"), more=("--json",)).out)
    (step,) = (step for step in told["steps"] if step["name"] == "fetch_teacher")
    assert step["state"] == "WAITING" and "cannot be pulled" in step["waiting"] and step["error"] == ""
    assert told["state"] == "RUNNING" and "records" in told["unseen"]


# -- submit --wait


@pytest.fixture
def wait(command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`submit --wait` whose polls follow each other at once; ``before`` is called ahead of each with its number."""
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)

    def submit(story: list[Any], *more: str, before: Any = lambda run, poll: None) -> Said:
        kfp.story, polls = story, iter(range(1000))

        def look(method: str, path: str) -> None:
            if method == "GET" and path.startswith("runs/"):
                before(path.removeprefix("runs/"), next(polls))

        kfp.before = look
        return command("submit", "digits", "--profile", command.profile(), "--wait", *more)

    return submit


def test_wait_says_a_reason_once_and_another_one_again(kube: Kube, wait: Any) -> None:
    def change(run: str, poll: int) -> None:
        what = {0: "room", 4: "image", 8: "running"}.get(poll)
        if what:
            kube.objects["pods"].clear()
            befall(kube, run, "fetch-teacher", what)

    said = wait([running("fetch-teacher")] * 10 + [("SUCCEEDED", {"fetch-teacher": "SUCCEEDED"})], before=change)
    lines = [" ".join(line.split()[:6]) for line in said.err.splitlines() if line.startswith("fetch_teacher")]
    assert lines == [
        "fetch_teacher RUNNING",
        "fetch_teacher WAITING no node has room:",
        "fetch_teacher WAITING the image cannot be",
        "fetch_teacher RUNNING",
        "fetch_teacher SUCCEEDED",
    ]
    assert said.status == 0


def test_a_wait_that_cannot_end_by_itself_is_given_up_and_the_run_goes_on(
    kube: Kube, wait: Any, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = wait(
        [running("fetch-teacher")],
        "--stuck",
        "0.002",
        before=lambda run, poll: befall(kube, run, "fetch-teacher", "image"),
    )
    assert said.status == 3
    last = said.err.splitlines()[-1]
    assert "fetch_teacher has waited 0.002 minutes for what does not come by itself: the image cannot be pulled" in last
    assert "check `images`" in last and "the run goes on" in last and "cancel" in last
    (run,) = kfp.runs.values()
    assert run["state"] == "RUNNING"


def test_a_queue_is_waited_for_and_a_wrong_number_of_minutes_is_refused(
    kube: Kube, wait: Any, command: Command
) -> None:
    assert "'soon'" in wait([running("score")], "--stuck", "soon").mistake()
    mine = command.profile(*LAUNCHED)

    def queue(run: str, poll: int) -> None:
        kube.objects["trainjobs"].clear()
        befall(kube, run, "distill", "running")
        train(kube, run, "distill", "suspended")

    command.profile = lambda *changes, **more: mine  # type: ignore[method-assign]
    story = [running("distill")] * 30 + [("SUCCEEDED", {"distill": "SUCCEEDED"})]
    said = wait(story, "--stuck", "0.001", before=queue)
    assert said.status == 0
    assert "distill               WAITING  it waits in a queue" in said.err


def test_the_last_line_says_how_the_run_ended_and_why(kube: Kube, wait: Any) -> None:
    said = wait([running("prepare-data"), "oom"], before=lambda run, poll: befall(kube, run, "prepare-data", "oom"))
    assert said.status == 1
    assert "FAILED: prepare_data: killed for memory (OOMKilled): the limit is 16Mi" in said.err.splitlines()[-1]


def test_what_could_not_be_looked_at_is_said_once(wait: Any) -> None:
    said = wait([running("fetch-teacher")] * 5 + [("SUCCEEDED", {"fetch-teacher": "SUCCEEDED"})])
    assert said.err.count("could not look at") == 1


# -- logs


def test_logs_are_a_step_s_pod_s_while_it_is_there(kube: Kube, status: Any, command: Command) -> None:
    status(running("fetch-teacher"))
    pod = befall(kube, RUN, "fetch-teacher", "running")
    argo = 'time=2026-11-28T18:06:55.036Z level=INFO msg="sub-process exited" argo=true error="<nil>"'
    kube.say(pod, "one", "two", argo)
    assert command("logs", RUN, "fetch-teacher", "--profile", command.profile()).out == "one\ntwo\n"


def test_a_driver_s_log_is_shown_of_a_step_that_came_no_further(kube: Kube, status: Any, command: Command) -> None:
    status(running("distill"))
    befall(kube, RUN, "distill", "fault-driver", driver=True)
    assert "failed to lookup existing execution" in command("logs", RUN, "distill", "--profile", command.profile()).out


def test_a_log_is_followed_until_its_pod_ends(kube: Kube, status: Any, command: Command) -> None:
    import threading

    pod = befall(kube, RUN, "fetch-teacher", "running")
    kube.say(pod, "one")
    later = threading.Timer(0.5, lambda: (kube.say(pod, "two"), kube.end_pod(pod, "Succeeded")))
    later.start()
    assert command("logs", RUN, "fetch_teacher", "--profile", command.profile(), "--follow").out == "one\ntwo\n"
    later.join()


def test_a_followed_log_goes_on_where_its_stream_broke_off(
    kube: Kube, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr("sida.launch.looker.RETRY_SECONDS", 0.1)
    pod = befall(kube, RUN, "fetch-teacher", "running")
    kube.say(pod, "one", "two")
    later = [
        threading.Timer(0.5, kube.cut_streams),
        threading.Timer(1.5, lambda: (kube.say(pod, "three"), kube.end_pod(pod, "Succeeded"))),
    ]
    for timer in later:
        timer.start()
    said = command("logs", RUN, "fetch_teacher", "--profile", command.profile(), "--follow")
    assert said.out == "one\ntwo\nthree\n"
    for timer in later:
        timer.join()


def test_without_a_pod_the_copy_in_the_store_is_shown(kube: Kube, s3: str, command: Command) -> None:
    from sida.steps.log import log_key

    mine = command.profile(("s3://bucket/sida", s3))
    line = command("logs", RUN, "score", "--profile", mine).mistake()
    assert f"run {RUN}, score: no log" in line and s3 in line
    open_store(s3).put(log_key(RUN, "score"), b"kept\n")
    assert command("logs", RUN, "score", "--profile", mine).out == "kept\n"
    kube.forbidden = {("get", "pods")}
    assert command("logs", RUN, "score", "--profile", mine).out == "kept\n"
    assert "pods in kubeflow (403, Forbidden)" in command("logs", RUN, "compare", "--profile", mine).mistake()


def test_of_a_step_that_waits_the_reason_is_said_in_place_of_a_log(kube: Kube, status: Any, command: Command) -> None:
    befall(kube, RUN, "fetch-teacher", "image")
    line = command("logs", RUN, "fetch_teacher", "--profile", command.profile()).mistake()
    assert "fetch_teacher has no log yet: the image cannot be pulled" in line


def test_the_first_node_s_log_is_that_of_a_step_with_a_trainjob(kube: Kube, status: Any, command: Command) -> None:
    befall(kube, RUN, "distill", "running")
    train(kube, RUN, "distill", "quota")
    mine = command.profile(*LAUNCHED)
    assert command("logs", RUN, "distill", "--profile", mine).out == "a line of the worker\n"
    assert not any(f"/namespaces/{KFP}/" in request for request in kube.requests)


def test_wait_ends_with_scores_and_verdict_from_the_store_also_where_no_page_can_be_written(
    command: Command, kfp: Kfp, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)
    made = Made(open_store(s3), recipe(), (0.6, 0.61, 0.59))
    kfp.story = [("RUNNING", {"report": "RUNNING"}), ("SUCCEEDED", {"report": "SUCCEEDED"})]

    def finish(method: str, path: str) -> None:
        if path.startswith("runs/"):
            made.write(path.removeprefix("runs/"))

    kfp.before = finish
    (command.place / "runs").write_text("no folder")
    said = command("submit", "digits", "--profile", command.profile(("s3://bucket/sida", s3)), "--wait")
    (run,) = kfp.runs
    assert (said.status, said.out) == (0, f"{run}\n"), said.err
    assert "The generator is level with its teacher." in said.err.splitlines()
    (report,) = (line for line in said.err.splitlines() if line.startswith(f"report     {s3}/objects/"))
    assert report.endswith(".html")
    assert said.err.splitlines()[-1].endswith(": SUCCEEDED")
