"""The launcher of TrainJobs against a stand-in for the Kubernetes API, with the faults that real ones have."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sida.errors import Fenced, SidaError, Unavailable, UserError
from sida.launch.base import Stopped, Work
from sida.launch.cluster import Clock, Cluster
from sida.launch.job_state import SUSPENDED_BY
from sida.launch.pod import THREAD_VARIABLES, Pod
from sida.launch.target import Target
from sida.launch.trainjob import TrainJobLauncher
from sida.launch.trainjob_manifest import RUN, SPEC, job_name, train_job, training_runtime
from sida.launch.worker_error import WorkerError
from sida.patience import keep_trying
from tests.launch import kueue
from tests.launch.crds import errors
from tests.launch.kube_server import NAMESPACE, Kube, serve
from tests.stores.outage import hasten

FOLDER = "jobs/distill/abc/1"
IMAGE = "registry.test/sida-cuda@sha256:" + "2" * 64
TARGET = Target(namespace=NAMESPACE, runtime="sida-torch", pod=Pod(image=IMAGE, env={"SIDA_STORE": "s3://bucket/sida"}))


def changed(target: Target, **changes: Any) -> Target:
    """With other values of its own, or of its pod."""
    pod = {name: value for name, value in changes.items() if name in Pod.model_fields}
    own = {name: value for name, value in changes.items() if name not in pod}
    return target.model_copy(update=own | {"pod": target.pod.model_copy(update=pod)})


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    with serve(tmp_path) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Launch:
    """The launcher in a thread of its own, as a step calls it."""

    def __init__(self, place: Path, speed: float = 20.0, **target: Any) -> None:
        self.target = changed(TARGET, **target)
        self.done = False
        self.place = place
        self.outcome: bool | BaseException | None = None
        self.tick: Callable[[], None] = lambda: None
        self.finished: Callable[[], bool] = lambda: self.done
        self.kept: list[str] = []
        self.error: WorkerError | None = None
        self.cancelled = ""
        self.speed = speed
        self.log = place / "logs" / "distill.log"

    def manifest(self, run: str = "run-1") -> dict[str, Any]:
        name = job_name("distill", FOLDER, "s3://bucket/sida")
        options = {"name": name, "step": "distill", "run": run, "folder": FOLDER, "processes": 2, "threads": 1}
        return train_job(self.target, **options)  # type: ignore[arg-type]

    def start(self, run: str = "run-1", *, settle: bool = False) -> Launch:
        work = Work(
            step="distill",
            job=f"{FOLDER}/spec.json",
            processes=2,
            threads=1,
            log=self.log,
            check=lambda: self.tick(),
            finished=lambda: self.finished(),
            error=lambda: self.error,
            cancelled=lambda: self.cancelled,
            keep_log=lambda: self.kept.append(self.log.read_text()),
        )
        cluster = Cluster(NAMESPACE, outage_seconds=self.target.outage_seconds, clock=Clock(self.speed))
        self.launcher = TrainJobLauncher(cluster, self.manifest(run), self.target.on_termination)

        def launch() -> None:
            try:
                (self.launcher.settle if settle else self.launcher.run)(work)
                self.outcome = True
            except Stopped:
                self.outcome = False
            except Exception as error:
                self.outcome = error

        self.thread = threading.Thread(target=launch, daemon=True)
        self.thread.start()
        return self

    def end(self, seconds: float = 15.0) -> Any:
        """What came of it."""
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        if isinstance(self.outcome, BaseException) and not isinstance(self.outcome, SidaError):
            raise self.outcome
        return self.outcome

    def complete(self, kube: Kube) -> None:
        self.done = True
        kube.condition("Complete", "JobsCompleted")


@pytest.fixture
def launch(place: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setenv("SIDA_EVENTS", str(place / "events"))
    monkeypatch.setenv("SIDA_PATIENCE", "60")
    hasten(monkeypatch)
    return Launch(place)


def told(place: Path) -> str:
    path = place / "events"
    return path.read_text() if path.exists() else ""


def created(kube: Kube) -> bool:
    return bool(kube.objects["trainjobs"])


def followed(kube: Kube) -> bool:
    """Whether somebody has looked at the job after it was made."""
    after = kube.requests[::-1][: next((i for i, r in enumerate(kube.requests[::-1]) if r.startswith("POST")), 0)]
    return any("/trainjobs/" in request for request in after)


# -- the manifest


def test_manifests_pass_the_real_crds_with_unknown_fields_refused() -> None:
    full = changed(
        TARGET,
        nodes=2,
        memory="64Gi",
        accelerator="nvidia.com/gpu",
        shared_memory="8Gi",
        node_selector={"pool": "gpu"},
        tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
        service_account="runner",
        image_pull_secrets=("registry",),
        queue="gpu",
        priority_class="urgent",
        timeout_seconds=86400,
    )
    made = train_job(full, name="sida-x", step="distill", run="r", folder=FOLDER, processes=16, threads=4)
    assert errors(made) == []
    assert errors(training_runtime("sida-torch", NAMESPACE, IMAGE)) == []
    trainer = made["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    env = {variable["name"]: variable.get("value") for variable in trainer["env"]}
    assert {env[name] for name in THREAD_VARIABLES} == {"4"}
    amounts = {"memory": "64Gi", "nvidia.com/gpu": 8}
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": "32"} | amounts, "limits": amounts}
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"
    assert made["spec"]["suspend"] is True
    made["spec"]["trainer"]["elasticPolicy"] = {}
    assert "elasticPolicy" in errors(made)[0]


def test_in_a_queue_the_grace_is_the_runtime_s_for_kueue_drops_ours() -> None:
    def graces(target: Target) -> list[str]:
        made = train_job(target, name="sida-x", step="distill", run="r", folder=FOLDER, processes=1, threads=1)
        return re.findall(r'"terminationGracePeriodSeconds": \d+', json.dumps(made))

    assert graces(TARGET) == ['"terminationGracePeriodSeconds": 120']
    assert graces(changed(TARGET, queue="gpu")) == []
    assert "terminationGracePeriodSeconds" in json.dumps(training_runtime("sida-torch", NAMESPACE, IMAGE))


def test_cpu_is_limited_where_the_profile_asks_for_it() -> None:
    limited = changed(TARGET, cpu="500m", cpu_limit="2")
    for target, amounts in (
        (limited, {"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}),
        (TARGET, {"requests": {"cpu": "8"}}),
    ):
        made = train_job(target, name="sida-x", step="distill", run="r", folder=FOLDER, processes=2, threads=4)
        assert errors(made) == []
        assert made["spec"]["trainer"]["resourcesPerNode"] == amounts


def test_manifests_are_what_the_trainer_s_own_models_read(launch: Launch) -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
    from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import TrainerV1alpha1TrainingRuntime

    for model, made in (
        (TrainerV1alpha1TrainJob, launch.manifest()),
        (TrainerV1alpha1TrainingRuntime, training_runtime("sida-torch", NAMESPACE, IMAGE)),
    ):
        read = model.from_dict(made)
        assert read is not None
        again = json.loads(read.to_json())
        assert _covered(made, again) == []


def _covered(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths of what is in ``a`` and was lost in ``b``."""
    if isinstance(a, dict):
        return [lost for key, value in a.items() for lost in _covered(value, (b or {}).get(key), f"{path}.{key}")]
    if isinstance(a, list):
        return [lost for i, value in enumerate(a) for lost in _covered(value, b[i], f"{path}[{i}]")]
    return [] if a == b or str(a) == str(b) else [path]


def test_a_job_s_name_is_its_folder_s_and_its_spec_hash_is_that_of_all_that_matters(launch: Launch) -> None:
    assert job_name("distill", FOLDER, "s3://a") != job_name("distill", FOLDER, "s3://b")
    first, again = launch.manifest("run-1"), launch.manifest("run-2")
    assert first["metadata"]["annotations"] == again["metadata"]["annotations"]
    launch.target = changed(launch.target, memory="1Gi")
    assert launch.manifest()["metadata"]["annotations"][SPEC] != first["metadata"]["annotations"][SPEC]


def test_processes_that_cannot_be_shared_out_over_the_nodes_are_refused() -> None:
    with pytest.raises(UserError, match="3 nodes"):
        TARGET.model_copy(update={"nodes": 3}).per_node(8)


# -- from start to end


def test_a_job_is_created_followed_and_removed_when_its_result_is_in_the_store(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    kube.counts(active=1, ready=1)
    pod = kube.pod()
    kube.say(pod, "hello", '{"event": "progress", "step": "distill", "done": 5, "total": 10, "unit": "images"}')
    until(lambda: '"done": 5' in told(launch.place))
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert launch.log.read_text().startswith("hello\n")
    assert launch.kept == [launch.log.read_text()]
    assert not created(kube)


def test_the_same_job_that_is_there_already_is_adopted_and_no_second_one_made(launch: Launch, kube: Kube) -> None:
    first = launch.start("run-1")
    until(lambda: created(kube))
    uid = kube.job()["metadata"]["uid"]
    second = Launch(launch.place)
    second.log = launch.place / "logs" / "second.log"
    second.start("run-2")
    until(lambda: "adopted" in told(launch.place))
    assert kube.job()["metadata"]["uid"] == uid
    assert kube.job()["metadata"]["labels"][RUN] == "run-2"
    first.done = True
    second.complete(kube)
    assert (first.end(), second.end()) == (True, True)


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_job_that_made_its_result_while_nobody_followed_goes_and_its_log_is_kept(
    launch: Launch, kube: Kube, end: str
) -> None:
    kube.answer("POST", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs", {}, launch.manifest())
    pod = kube.pod()
    kube.say(pod, "the last line")
    kube.end_pod(pod, "Succeeded" if end == "Complete" else "Failed")
    kube.condition(end, "JobsEnded")
    launch.done = True
    assert launch.start(settle=True).end() is True
    assert not created(kube)
    assert launch.kept == ["the last line\n"]


def test_where_the_result_is_there_no_job_is_made_and_a_cluster_that_refuses_ends_nothing(
    launch: Launch, kube: Kube
) -> None:
    made: list[Any] = []
    kube.on_create = made.append
    launch.done = True
    assert launch.start(settle=True).end() is True
    kube.forbidden.add(("get", "trainjobs"))
    assert launch.start(settle=True).end() is True
    assert made == []
    assert "its result is there; what is left of it could not be cleared away: not allowed to create TrainJobs" in told(
        launch.place
    )


def test_another_specification_under_the_same_name_is_refused_with_the_field(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    other = Launch(launch.place, memory="9Gi").start()
    error = other.end()
    assert isinstance(error, UserError)
    assert "another specification (trainer.resourcesPerNode.limits, trainer.resourcesPerNode.requests.memory)" in str(
        error
    )
    launch.complete(kube)
    assert launch.end() is True


def test_a_failed_job_is_deleted_its_pods_waited_for_and_it_is_made_anew(launch: Launch, kube: Kube) -> None:
    kube.answer("POST", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs", {}, launch.manifest())
    uid = kube.job()["metadata"]["uid"]
    kube.pod()  # ends after the job, as its grace allows
    kube.end_pod(kube.pod(index=1), "Failed")
    kube.condition("Failed", "JobsFailed")
    kube.delete_seconds = 0.3
    running: list[str] = []
    kube.on_create = lambda job: running.extend(p["status"]["phase"] for p in kube.objects["pods"].values())
    launch.start()
    until(lambda: created(kube) and kube.job()["metadata"]["uid"] != uid)
    assert "Running" not in running
    assert "waiting until the pods of the old one have ended" in told(launch.place)
    launch.complete(kube)
    assert launch.end() is True


def test_a_pod_of_an_old_job_that_never_ends_is_named(launch: Launch, kube: Kube) -> None:
    kube.answer("POST", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs", {}, launch.manifest())
    pod = kube.pod()
    kube.condition("Failed", "JobsFailed")
    kube.delete_seconds = 3600
    launch.speed = 1000
    assert f"pod {pod} is being deleted since 600 s: look at its finalizers and at its node" in str(
        launch.start().end()
    )


def test_a_job_that_somebody_is_deleting_is_waited_for(launch: Launch, kube: Kube) -> None:
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
    old = kube.answer("POST", path, {}, launch.manifest())
    name = old["metadata"]["name"]
    kube.answer("DELETE", f"{path}/{name}", {}, {"propagationPolicy": "Foreground"})
    launch.start()
    until(lambda: "waiting until the old one is deleted" in told(launch.place))
    kube.record("trainjobs", "DELETED", kube.job())
    until(lambda: created(kube) and kube.job()["metadata"]["uid"] != old["metadata"]["uid"])
    launch.complete(kube)
    assert launch.end() is True


def test_an_answer_that_was_lost_after_the_deed_does_not_make_a_second_job(launch: Launch, kube: Kube) -> None:
    kube.lose_answers = 1
    launch.start()
    until(lambda: "adopted" in told(launch.place))
    assert len(kube.objects["trainjobs"]) == 1
    launch.complete(kube)
    assert launch.end() is True


# -- divided among other nodes than before


TRAINJOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"


def test_a_running_job_on_other_nodes_is_followed_and_told(launch: Launch, kube: Kube) -> None:
    launch.target = changed(launch.target, nodes=2, accelerator="nvidia.com/gpu")
    kube.answer("POST", TRAINJOBS, {}, launch.manifest())
    launch.target = changed(launch.target, nodes=1)  # with two accelerators in place of one
    kube.on_create = lambda job: pytest.fail("made a second one")
    launch.start()
    until(lambda: "adopted" in told(launch.place))
    assert (
        "adopted: it was there already; it has 2 nodes of 1 process, and the profile now asks for 1 node of 2 processes: cancel "
        "the run and run it again for that"
    ) in told(launch.place)
    launch.complete(kube)
    assert launch.end() is True


def test_other_nodes_excuse_no_other_difference(launch: Launch, kube: Kube) -> None:
    launch.target = changed(launch.target, nodes=2)
    kube.answer("POST", TRAINJOBS, {}, launch.manifest())
    launch.target = changed(launch.target, nodes=1, timeout_seconds=60)
    error = launch.start().end()
    assert isinstance(error, UserError) and "another specification (activeDeadlineSeconds, trainer.num" in str(error)


@pytest.mark.parametrize("processes", [None, 1])
def test_an_ended_job_is_made_anew_on_as_many_nodes_as_the_profile_says_now(
    launch: Launch, kube: Kube, processes: int | None
) -> None:
    launch.target = changed(launch.target, nodes=2)
    kube.answer("POST", TRAINJOBS, {}, launch.manifest())
    uid = kube.job()["metadata"]["uid"]
    kube.condition("Failed", "JobsFailed")
    launch.target = launch.target.model_copy(update={"nodes": 1, "processes": processes})
    launch.start()
    until(lambda: created(kube) and kube.job()["metadata"]["uid"] != uid)
    trainer = kube.job()["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (1, processes or 2)
    launch.complete(kube)
    assert launch.end() is True


@pytest.mark.parametrize("queue", ["", "gpu"])
def test_a_job_that_waits_for_more_nodes_than_the_profile_says_now_is_made_anew(
    launch: Launch, kube: Kube, queue: str
) -> None:
    launch.target = changed(launch.target, nodes=2, queue=queue)
    old = launch.manifest()
    if not queue:
        old["spec"]["suspend"] = True
        old["metadata"]["annotations"][SUSPENDED_BY] = "true"
    uid = kube.answer("POST", TRAINJOBS, {}, old)["metadata"]["uid"]
    launch.target = changed(launch.target, nodes=1)
    launch.start()
    until(lambda: created(kube) and kube.job()["metadata"]["uid"] != uid)
    assert kube.job()["spec"]["trainer"]["numNodes"] == 1
    assert "it waits, and has 2 nodes of 1 process, and the profile now asks for 1 node of 2 processes" in told(
        launch.place
    )
    launch.complete(kube)
    assert launch.end() is True


# -- outages


def test_an_hour_without_the_api_is_survived_and_nothing_is_missed(place: Path, launch: Launch, kube: Kube) -> None:
    launch.speed = 1000.0  # an hour in 3.6 s
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, "before")
    until(lambda: launch.log.exists() and "before" in launch.log.read_text())
    kube.go_away()
    kube.say(pod, "meanwhile")
    time.sleep(3.7)
    assert launch.thread.is_alive()
    kube.come_back()
    kube.say(pod, "after")
    until(lambda: "after" in launch.log.read_text())  # else the result in the store ends it, as it may
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert launch.log.read_text().splitlines() == ["before", "meanwhile", "after"]
    assert "does not answer since" in told(place)


def test_a_longer_outage_than_the_profile_bears_ends_the_step_and_not_the_job(launch: Launch, kube: Kube) -> None:
    launch.speed = 500.0
    launch.target = launch.target.model_copy(update={"outage_seconds": 600})
    launch.start()
    until(lambda: followed(kube))
    kube.go_away()
    error = launch.end()
    assert isinstance(error, UserError)
    assert "has not answered for" in str(error) and "the job runs on" in str(error)
    assert created(kube)


def test_a_result_in_the_store_counts_while_the_api_is_away(launch: Launch, kube: Kube) -> None:
    launch.speed = 500.0
    launch.start()
    until(lambda: followed(kube))
    kube.go_away()
    launch.done = True
    assert launch.end() is True


# -- logs


def test_a_cut_log_is_joined_without_a_gap_or_a_line_twice(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    for number in range(30):
        kube.say(pod, f"line {number}")
        if number % 10 == 5:
            until(lambda number=number: launch.log.exists() and f"line {number}\n" in launch.log.read_text())
            kube.cut_streams()
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert launch.log.read_text().splitlines() == [f"line {number}" for number in range(30)]


def test_after_a_restart_the_new_pod_is_found_and_the_restart_told(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    first = kube.pod(restart=0)
    kube.say(first, "one")
    kube.end_pod(first, "Failed")
    second = kube.pod(restart=1)
    kube.pod(restart=1, index=1)  # the second node: not followed
    kube.say(second, "two")
    until(lambda: launch.log.exists() and "two" in launch.log.read_text())
    kube.end_pod(second, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert "started again (restart 1)" in told(launch.place)
    assert launch.log.read_text() == "one\ntwo\n"


def test_a_log_that_may_not_be_read_is_said_and_the_job_followed_all_the_same(launch: Launch, kube: Kube) -> None:
    kube.forbidden = {("get", "log")}
    launch.start()
    until(lambda: created(kube))
    kube.end_pod(kube.pod(), "Succeeded")
    until(lambda: "its log cannot be read: User cannot get resource log" in told(launch.place))
    launch.complete(kube)
    assert launch.end() is True


def test_why_a_pod_does_not_start_is_told_once(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    waits = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have nvidia.com/gpu"}
    kube.pod(phase="Pending", conditions=[waits])
    until(lambda: "0/3 nodes have" in told(launch.place))
    time.sleep(0.6)
    assert told(launch.place).count("0/3 nodes have") == 1
    launch.complete(kube)
    assert launch.end() is True


# -- how it fails


def test_a_worker_s_error_is_the_step_s_with_its_exit_status(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, "RuntimeError: [gloo] Connection closed by peer")
    launch.error = WorkerError.of(UserError("recipe x: change micro_batch"), 0)
    kube.end_pod(pod, "Failed")
    kube.condition("Failed", "JobsFailed", "jobset failed")
    error = launch.end()
    assert isinstance(error, UserError)
    assert "recipe x: change micro_batch" in str(error)
    assert len(launch.kept) == 1
    assert created(kube)  # stays to be looked at; the next start replaces it


def test_workers_that_waited_in_vain_for_a_store_are_told_from_those_that_failed(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    launch.error = WorkerError.of(SidaError("of the first attempt"), 0)
    for restart, status in enumerate((1, 75)):  # in the end the store was away, and no error could be published
        pod = kube.pod(restart=restart)
        kube.say(pod, '{"event": "error", "step": "distill", "message": "no"}', f"no {restart}")
        kube.say(
            pod, f"E1129 06:00:00.000000 7 torch/api.py:9] failed (exitcode: {status}) local_rank: 0 (pid: 8) of x"
        )
        kube.say(pod, "Traceback (most recent call last):", "torch.distributed.elastic...ChildFailedError: ")
        kube.end_pod(pod, "Failed")
    until(lambda: launch.log.exists() and "exitcode: 75" in launch.log.read_text())
    kube.condition("Failed", "JobsFailed", "jobset failed")
    error = launch.end()
    assert isinstance(error, Unavailable) and "no 1" in str(error)  # of the last attempt


def test_a_log_that_cannot_be_kept_hides_no_error(launch: Launch, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(text: str) -> None:
        raise Unavailable("cannot reach http://store", "the store at http://store", "gone")

    monkeypatch.setattr(launch, "kept", type("Kept", (), {"append": staticmethod(away)}))
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, "RuntimeError: CUDA out of memory")
    kube.end_pod(pod, "Failed")
    kube.condition("Failed", "JobsFailed", "jobset failed")
    assert "CUDA out of memory" in str(launch.end())
    assert "its log is not kept: cannot reach http://store" in told(launch.place)


def test_an_outage_that_many_workers_meet_is_passed_on_once(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    for state in ("away", "back", "away"):
        for rank in range(3):
            note = {
                "event": "note",
                "step": "distill",
                "text": f"the store is {state}, says {rank}",
                state: "the store",
            }
            kube.say(pod, json.dumps(note))
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert [line for line in told(launch.place).splitlines() if "the store is" in line and "says 0" not in line] == []
    assert told(launch.place).count("the store is away") == 2 and told(launch.place).count("the store is back") == 1


def test_a_launching_step_that_waits_for_the_store_ends_when_it_is_asked_to(launch: Launch, kube: Kube) -> None:
    def finished() -> bool:
        raise Unavailable("cannot reach http://store", "the store at http://store", "gone")

    launch.start()
    until(lambda: created(kube))
    launch.finished = lambda: keep_trying("the store at http://store", finished)
    kube.record("trainjobs", "DELETED", kube.job())
    until(lambda: "the store at http://store is away since" in told(launch.place))
    launch.launcher.asked = True
    assert launch.end() is False


def test_a_failure_without_a_word_names_reason_and_log(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, "RuntimeError: CUDA out of memory")
    kube.end_pod(pod, "Failed")
    kube.condition("Failed", "JobsFailed", "jobset failed")
    error = launch.end()
    assert "JobsFailed: jobset failed" in str(error) and "CUDA out of memory" in str(error)
    assert not isinstance(error, UserError)


def test_a_deadline_is_named_with_the_field_that_sets_it(launch: Launch, kube: Kube) -> None:
    launch.target = changed(launch.target, timeout_seconds=7)
    launch.start()
    until(lambda: created(kube))
    kube.condition("Failed", "DeadlineExceeded")
    assert "longer than 7 s (timeout_seconds" in str(launch.end())


def test_a_job_that_somebody_deleted_is_told_from_one_that_failed(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: followed(kube))
    kube.record("trainjobs", "DELETED", kube.job())
    assert "was deleted by somebody else" in str(launch.end())


def test_a_job_that_went_with_its_run_is_told_as_cancelled(launch: Launch, kube: Kube) -> None:
    launch.cancelled = "cancelled at 2026-11-28T14:26:03+00:00 (by `cancel`)"
    launch.start()
    until(lambda: followed(kube))
    kube.record("trainjobs", "DELETED", kube.job())
    said = str(launch.end())
    assert f"was deleted: the run was {launch.cancelled}: checkpoints are kept" in said and "kubectl" not in said


def test_a_job_deleted_while_the_api_was_away_is_missed_at_the_next_look(launch: Launch, kube: Kube) -> None:
    launch.speed = 100.0
    launch.start()
    until(lambda: followed(kube))
    kube.go_away()
    kube.record("trainjobs", "DELETED", kube.job())
    kube.come_back()
    assert "was deleted by somebody else" in str(launch.end())


def test_a_creation_failure_which_the_status_never_shows_ends_the_step_with_the_event_s_words(
    launch: Launch, kube: Kube
) -> None:
    launch.speed = 200.0
    kube.on_create = lambda job: kube.event("TrainJobResourcesCreationFailed", "exceeded quota: gpu")
    error = launch.start().end()
    assert isinstance(error, UserError)
    assert "could not be created: exceeded quota: gpu" in str(error)
    assert not created(kube)


def test_a_creation_failure_that_heals_or_is_another_job_s_does_no_harm(launch: Launch, kube: Kube) -> None:
    launch.speed = 200.0

    def fail_at_first(job: dict[str, Any]) -> None:
        kube.event("TrainJobResourcesCreationFailed", "of an earlier job", uid="another")
        kube.event("TrainJobResourcesCreationFailed", "webhook not ready")

    kube.on_create = fail_at_first
    launch.start()
    until(lambda: "webhook not ready" in told(launch.place))
    kube.counts(active=1)
    time.sleep(1.0)  # 200 s
    assert launch.thread.is_alive()
    assert "of an earlier job" not in told(launch.place)
    launch.complete(kube)
    assert launch.end() is True


def test_without_the_right_to_read_events_the_job_is_followed_all_the_same(launch: Launch, kube: Kube) -> None:
    kube.forbidden = {("get", "events")}
    launch.start()
    until(lambda: "events cannot be read" in told(launch.place))
    launch.complete(kube)
    assert launch.end() is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kube: kube.forbidden.add(("post", "trainjobs")), ["not allowed to create TrainJobs", "Role"]),
        (lambda kube: setattr(kube, "served", False), ["does not serve trainer.kubeflow.org/v1alpha1", "launcher"]),
    ],
)
def test_what_the_cluster_refuses_is_one_line(launch: Launch, kube: Kube, change: Any, words: list[str]) -> None:
    change(kube)
    error = launch.start().end()
    assert isinstance(error, UserError)
    assert all(word in str(error) for word in words), error


def test_a_lease_that_is_lost_ends_the_following_and_passes_on(launch: Launch, kube: Kube) -> None:
    def fenced() -> None:
        if created(kube):
            raise Fenced("another writer took over")

    launch.tick = fenced
    assert isinstance(launch.start().end(), Fenced)


# -- asked to stop


@pytest.mark.parametrize("wish", ["delete", "suspend", "keep"])
def test_a_step_that_is_ended_does_with_its_job_as_the_profile_says(launch: Launch, kube: Kube, wish: Any) -> None:
    launch.target = launch.target.model_copy(update={"on_termination": wish})
    launch.start()
    until(lambda: followed(kube))
    launch.launcher.asked = True
    assert launch.end() is False
    if wish == "delete":
        assert not created(kube)
        return
    assert kube.job()["spec"]["suspend"] is (wish == "suspend")
    again = Launch(launch.place).start()
    until(lambda: "adopted" in told(launch.place))
    assert kube.job()["spec"]["suspend"] is False
    assert SUSPENDED_BY not in kube.job()["metadata"]["annotations"]
    again.complete(kube)
    assert again.end() is True


def queued(launch: Launch, kube: Kube) -> str:
    """Start it in a queue; the uid of its TrainJob, which is suspended."""
    launch.target = launch.target.model_copy(update={"queue": "gpu"})
    launch.start()
    until(lambda: created(kube))
    kube.condition("Suspended", "Suspended", "TrainJob is suspended")
    return str(kube.job()["metadata"]["uid"])


def test_with_a_queue_a_job_waits_suspended_and_tells_its_place(launch: Launch, kube: Kube) -> None:
    kube.record("workloads", "ADDED", kueue.pending("other"))
    uid = queued(launch, kube)
    until(lambda: "it waits in a queue: Kueue has not put it into gpu yet" in told(launch.place))
    kube.record("workloads", "ADDED", kueue.pending(uid, made=1))
    until(lambda: f"it waits in a queue: place 2 of 2 in gpu: {kueue.PENDING}" in told(launch.place))
    kube.record("workloads", "DELETED", kueue.pending("other"))
    until(lambda: "it waits in a queue: place 1 of 1 in gpu" in told(launch.place))
    kube.condition("Suspended", status="False")
    launch.complete(kube)
    assert launch.end() is True


def test_where_workloads_may_not_be_read_that_is_told_and_it_waits_all_the_same(launch: Launch, kube: Kube) -> None:
    kube.forbidden.add(("get", "workloads"))
    queued(launch, kube)
    until(lambda: "its place in queue gpu cannot be looked at (403, Forbidden)" in told(launch.place))
    until(lambda: "it waits in a queue: TrainJob is suspended" in told(launch.place))
    kube.condition("Suspended", status="False")
    launch.complete(kube)
    assert launch.end() is True
    assert len([request for request in kube.requests if request.endswith("/workloads")]) == 1


def test_a_preempted_job_is_no_failed_one(launch: Launch, kube: Kube) -> None:
    uid = queued(launch, kube)
    kube.record("workloads", "ADDED", kueue.admitted(uid))
    kube.condition("Suspended", "Resumed", status="False")
    first = kube.pod()
    kube.say(first, "seen 512 images")
    kube.counts(active=1, ready=1)
    until(lambda: "its pods run" in told(launch.place))
    kube.end_pod(first, "Failed")
    kube.delete_pod(first)
    kube.counts(active=0, ready=0, suspended=1)
    kube.condition("Suspended", "Suspended", "TrainJob is suspended")
    kube.record("workloads", "MODIFIED", kueue.preempted(uid))
    until(lambda: "it had to give its place back: Preempted to accommodate a workload due to" in told(launch.place))
    assert "failed" not in told(launch.place)
    kube.condition("Suspended", "Resumed", status="False")
    second = kube.pod(suffix="-second")
    kube.say(second, "seen 1024 images")
    until(lambda: f"started again, pod {second}" in told(launch.place))
    launch.complete(kube)
    assert launch.end() is True
