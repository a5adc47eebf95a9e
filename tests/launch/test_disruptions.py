"""Nodes that are taken away, and progress, as a TrainJob shows them: the launching step's side."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sida import recipe
from sida.launch import annotations, cluster, grace
from sida.launch.annotations import DISRUPTION, DISRUPTIONS, IMAGES, LEFT, RATE
from sida.launch.base import Work
from sida.launch.job import _launcher
from sida.launch.job_state import job_in_words
from sida.launch.trainjob_manifest import grace_of, train_job
from sida.settings import settings
from sida.stores import open_store
from sida.teachers.files import network_on_meta
from sida.training.distill_step import written_bytes
from sida.training.teach_step import _checkpoint_bytes
from tests.launch.kube_server import NAMESPACE, Kube
from tests.launch.test_trainjob import FOLDER, TARGET, Launch, changed, created, followed, kube, launch, told, until

__all__ = ["kube", "launch"]
TAKEN = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "EvictionByEvictionAPI",
    "message": "Eviction API: evicting",
}


def progress(done: int, rate: float | None = 310.25) -> str:
    fields = {"done": done, "total": 8192, "unit": "images", "rate": rate, "numbers": {"loss": 0.5}}
    return json.dumps({"event": "progress", "step": "distill", **fields})


def shown(kube: Kube, name: str) -> str | None:
    found: str | None = kube.job()["metadata"]["annotations"].get(name)
    return found


def patches(kube: Kube) -> int:
    return sum(request.startswith("PATCH") for request in kube.requests)


def test_a_trainjob_shows_images_rate_and_time_left_at_a_modest_rate(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, progress(1024))
    until(lambda: shown(kube, IMAGES) == "1024/8192")
    assert (shown(kube, RATE), shown(kube, LEFT)) == ("310.2/s", "0:23")
    words = job_in_words(kube.job())
    assert words.endswith("starting, 1,024 of 8,192 images, 310.2/s, 0:23 left")
    for done in range(1100, 1200):
        kube.say(pod, progress(done))
    until(lambda: shown(kube, IMAGES) == "1199/8192")  # the newest, half a minute later
    assert patches(kube) == 2
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True


def test_who_may_not_annotate_says_so_once_and_goes_on(launch: Launch, kube: Kube) -> None:
    kube.forbidden.add(("patch", "trainjobs"))
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    kube.say(pod, progress(1024))
    until(lambda: "annotations cannot be written" in told(launch.place))
    kube.say(pod, progress(2048))
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert patches(kube) == 1 and told(launch.place).count("annotations") == 1


def test_another_job_of_the_name_is_not_annotated(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    api = cluster.Cluster(NAMESPACE)
    assert api.annotate(kube.job()["metadata"]["name"], "uid-of-another", {IMAGES: "1/2"})  # nothing to complain about
    assert shown(kube, IMAGES) is None
    assert api.annotate("gone", "uid-1", {IMAGES: "1/2"})
    launch.complete(kube)
    assert launch.end() is True


def test_a_node_that_is_taken_away_is_told_at_once_and_counted_on_the_job(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    kube.pod(index=1)
    kube.pod(conditions=[TAKEN])  # it still runs: it writes its checkpoint
    until(lambda: shown(kube, DISRUPTIONS) == "1")
    assert "its pod was taken off the node: Eviction API: evicting" in told(launch.place)
    assert "taken off a node once, last 20" in annotations.in_words(kube.job())
    again = kube.pod(restart=1, conditions=[TAKEN])
    until(lambda: shown(kube, DISRUPTIONS) == "2")
    assert again in str(shown(kube, DISRUPTION))
    launch.complete(kube)
    assert launch.end() is True


@pytest.mark.parametrize("taken", [True, False])
def test_a_launching_pod_that_is_taken_off_its_node_leaves_its_job_to_the_next(
    launch: Launch, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    own: dict[str, Any] = {"metadata": {"name": "sida-distill-x", "uid": "own"}, "status": {"phase": "Running"}}
    own["status"]["conditions"] = [TAKEN] if taken else []
    namespace = tmp_path / "namespace"
    namespace.write_text(NAMESPACE)
    monkeypatch.setattr(cluster, "OWN_NAMESPACE", namespace)
    monkeypatch.setenv("HOSTNAME", "sida-distill-x")
    launch.start()
    until(lambda: followed(kube))
    kube.record("pods", "ADDED", own)
    launch.launcher.asked = True
    assert launch.end() is False
    assert created(kube) is taken  # asked to end by somebody, it deletes the job
    assert ("runs on" in told(launch.place)) is taken


def test_a_checkpoint_that_takes_longer_than_pods_are_given_is_told_once(launch: Launch, kube: Kube) -> None:
    launch.start()
    until(lambda: created(kube))
    pod = kube.pod()
    for seconds in (3.0, 90.0, 95.0):
        kube.say(pod, json.dumps({"event": "checkpoint", "step": "distill", "seen": 512, "seconds": seconds}))
    until(lambda: "trainjob.grace_seconds of the profile to 240" in told(launch.place))
    kube.end_pod(pod, "Succeeded")
    launch.complete(kube)
    assert launch.end() is True
    assert told(launch.place).count("grace_seconds") == 1


def test_workers_and_torchrun_get_a_little_less_than_their_pod(launch: Launch) -> None:
    target = {"name": "sida-distill-1", "step": "distill", "run": "", "folder": FOLDER, "processes": 2, "threads": 1}
    job = train_job(launch.target, **target, grace_seconds=300)  # type: ignore[arg-type]
    env = {item["name"]: item.get("value") for item in job["spec"]["trainer"]["env"]}
    assert (env["SIDA_GRACE"], env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"], grace_of(job)) == ("290", "290", 300)


@pytest.mark.parametrize("name", ["digits", "digits-sid"])
def test_a_teacher_s_checkpoint_is_counted_without_training_one(name: str) -> None:
    chosen = recipe.load(name)
    network = network_on_meta(chosen.teacher.network.model_dump(mode="json"), name)
    assert _checkpoint_bytes(chosen) == 16 * sum(parameter.numel() for parameter in network.parameters()) > 10**5


def test_the_time_to_end_follows_from_a_checkpoint_s_size(launch: Launch) -> None:
    assert grace.planned(0) == grace.FLOOR_SECONDS == grace_of(launch.manifest())
    assert grace.planned(48 * 10**9) == 60 + 2 * 480  # EDM2-XXL
    assert grace.planned(10**15) == grace.LONGEST_SECONDS
    assert (grace.of_workers(120), grace.of_workers(8), grace.of_workers(1)) == (110, 4, 1)


@pytest.mark.parametrize(
    ("shard", "over", "seconds"),
    [
        ("none", None, 60 + 2 * 480),
        ("full", None, 60 + 2 * 120),
        ("optimizer", 8, 60 + 2 * 60),
        ("full", 2, 60 + 2 * 240),
    ],
)
def test_of_a_divided_checkpoint_a_process_s_own_part_is_counted(
    place: Path, kube: Kube, monkeypatch: pytest.MonkeyPatch, shard: str, over: int | None, seconds: int
) -> None:
    """Two nodes of four processes; a copy is shared on a node unless the recipe says otherwise."""
    target = changed(TARGET, nodes=2)
    monkeypatch.setenv("SIDA_LAUNCHER", "trainjob")
    monkeypatch.setenv("SIDA_TRAINJOB", target.model_dump_json())
    xxl = recipe.load("imagenet-512-edm2-xxl")
    execution = xxl.execution.model_copy(update={"shard": shard, "shard_over": over})
    divided = xxl.model_copy(update={"execution": execution})
    work = Work(
        step="distill",
        job=f"{FOLDER}/spec.json",
        processes=8,
        threads=1,
        log=place / "log",
        check=int,
        error=lambda: None,
    )
    run: Any = SimpleNamespace(store=open_store(settings().store), recipe=divided)
    launcher: Any = _launcher(run, FOLDER, work, partial(written_bytes, divided, 6 * 10**9))[0]
    assert grace_of(launcher.job) == seconds
