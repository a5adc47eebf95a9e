"""A launching step says in its own log why its TrainJob's pods do not begin, and what killed them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sida.errors import SidaError, TimedOut, UserError
from tests.launch.kube_server import Answer, Kube, serve
from tests.launch.test_trainjob import Launch, created, told, until
from tests.pipeline.facts import TRAINJOBS

# The Job's controller gathers pods' changes for a second before it looks; JobSet deletes pods after that
SYNC_SECONDS = 2.0


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    with serve(tmp_path) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


@pytest.fixture
def launch(place: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setenv("SIDA_EVENTS", str(place / "events"))
    made = Launch(place, nodes=2)
    made.speed = 50.0
    return made


def befall(kube: Kube, what: str) -> None:
    """The TrainJob has the pods and warnings that a real one had, under its own name."""
    job = kube.job()["metadata"]["name"]
    given = copy.deepcopy(TRAINJOBS[what])
    kube.counts(**{name: count for name, count in given["status"]["jobsStatus"][0].items() if name != "name"})
    for pod in given["pods"]:
        pod["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] = job
        kube.record("pods", "ADDED", pod)
        kube.logs[pod["metadata"]["name"]] = []
        kube.closed_logs.add(pod["metadata"]["name"])
    for event in given["events"]:
        event["involvedObject"]["name"] = event["involvedObject"]["name"].replace(what, job)
        kube.record("events", "ADDED", event)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("quota", "1 of 2 pods run; the namespace's quota is used up: exceeded quota: small"),
        ("policy", "an admission policy refuses the pod: violates PodSecurity"),
        ("room", "no node has room: 0/1 nodes are available: 1 Insufficient cpu"),
    ],
)
def test_pods_that_do_not_begin_are_told_with_the_reason(launch: Launch, kube: Kube, what: str, words: str) -> None:
    launch.start()
    until(lambda: created(kube))
    befall(kube, what)
    until(lambda: words in told(launch.place))
    kube.counts(active=1, ready=1)
    until(lambda: "its pods run" in told(launch.place))
    for name, pod in list(kube.objects["pods"].items()):
        if pod["status"]["phase"] == "Running":
            kube.end_pod(name, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True


def test_a_worker_that_was_killed_for_memory_is_why_the_job_failed(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    befall(kube, "oom")
    kube.condition("Failed", "ReachedMaxRestarts", "jobset failed due to reaching max number of restarts")
    error = launch.end()
    assert isinstance(error, SidaError)
    assert "a worker was killed for memory (OOMKilled): the limit is 32Mi (oom-node-0-1" in str(error)


@pytest.mark.parametrize("again", [True, False])
def test_a_worker_that_is_killed_for_memory_is_told_before_a_restart_deletes_its_pod(
    launch: Launch, kube: Kube, again: bool
) -> None:
    launch.speed = 5.0
    launch.start()
    until(lambda: created(kube))
    first = kube.pod()
    kube.counts(active=1, ready=1)
    kube.end_pod(first, "Failed", exitCode=137, reason="OOMKilled")
    time.sleep(SYNC_SECONDS / launch.speed)
    kube.delete_pod(first)
    until(lambda: "a worker was killed for memory (OOMKilled)" in told(launch.place))
    second = kube.pod(restart=1)
    kube.end_pod(second, "Failed", **({"exitCode": 137, "reason": "OOMKilled"} if again else {}))
    time.sleep(SYNC_SECONDS / launch.speed)
    kube.delete_pod(second)
    kube.condition("Failed", "ReachedMaxRestarts", "jobset failed due to reaching max number of restarts")
    assert ("killed for memory" in str(launch.end())) == again


def test_a_job_that_exceeded_its_deadline_timed_out(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    kube.condition("Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
    assert isinstance(launch.end(), TimedOut)


def test_a_refusal_by_a_webhook_is_not_called_a_missing_right(launch: Launch, kube: Kube) -> None:
    said = (
        'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.runtimeRef: Invalid value: '
        'TrainingRuntime.trainer.kubeflow.org "absent" not found: specified trainingRuntime must be created before'
    )

    def refuse(job: dict[str, Any]) -> None:
        raise Answer(403, "Forbidden", said)

    kube.on_create = refuse
    error = launch.start().end()
    assert isinstance(error, UserError)
    assert "the cluster refused to create TrainJobs" in str(error) and '"absent" not found' in str(error)
    assert "not allowed" not in str(error)
