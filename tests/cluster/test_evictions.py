"""Pods that are taken off their node by the eviction API, as `kubectl drain` does it: nothing is lost, no restart counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sida.launch.annotations import disruptions, in_words
from sida.stores import ObjectStore
from tests.cluster import installed
from tests.cluster.conftest import RECIPE, Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import apply, create, get, kubectl, log_of, until
from tests.cluster.test_training import LONGEST_SECONDS, attempts, checkpoints, ended, node, store, told

__all__ = ["store"]
IMAGES = 8_192
NEVER = 1_000_000  # images between two checkpoints: the only one is that of the SIGTERM


@pytest.fixture(scope="module")
def seldom(cluster: Cluster, undisturbed: Undisturbed) -> str:
    """The undisturbed run under another recipe, whose trainings write no checkpoint unless they are asked to end; its id."""
    recipe = cluster.folder / "seldom.yaml"
    recipe.write_text(RECIPE.replace("checkpoint_every: 512", f"checkpoint_every: {NEVER}"))
    told_us = json.loads(cluster.done("run", str(recipe), "--json"))
    return Path(told_us["report"]).parent.name if "report" in told_us else str(told_us["run"])


def evict(pod: str) -> None:
    """Take a pod off its node, as a drain does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


STRICT = "sida-torch-strict"  # a runtime whose TrainJobs fail at their first failure that counts


@pytest.fixture(scope="module")
def strict(cluster: Cluster) -> str:
    """A profile whose TrainJobs have that runtime."""
    runtime = get("trainingruntime", "sida-torch", namespace=NAMESPACE)
    runtime["metadata"] = {"name": STRICT, "namespace": NAMESPACE, "labels": runtime["metadata"]["labels"]}
    runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] = 0
    apply([runtime])
    fields = yaml.safe_load(Path(cluster.profile).read_text(encoding="utf-8"))
    jobs = fields["trainjob"] | {"runtime": STRICT}
    return installed.profile(cluster.folder, cluster.images, "strict.yaml", trainjob=jobs)


def launched(cluster: Cluster, run: str, profile: str) -> str:
    """A Job that makes a new attempt of distill; its name."""
    return create(cluster.done("rerun", run, "distill", "--force", "--profile", profile)).removeprefix("job.batch/")


def seen(pod: str) -> int:
    """Images that the newest line of progress in a pod's log tells of; 0 before the first."""
    found = re.findall(r'"done": (\d+), "total": 8192|([\d,]+) of 8,192 images', log_of(pod, NAMESPACE))
    return int("".join(found[-1]).replace(",", "")) if found else 0


def under_way(job: str, pod: Callable[[], str]) -> int:
    """Wait until a part of the images was seen; how many."""

    def some() -> int | None:
        assert ended(job) is None, told(job)
        return seen(pod()) or None

    return until("some images", some, LONGEST_SECONDS)


def made(store: ObjectStore, there: Undisturbed, number: int) -> Any:
    return json.loads(store.read(f"{there.folder}/{number}.json"))["result"]


def continued_at(said: str) -> int:
    """Images at the checkpoint that the work went on from."""
    found = re.search(r"continuing from the checkpoint at ([\d,]+) images", said)
    assert found is not None, said
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("index", [pytest.param(0, id="node 0"), pytest.param(1, id="node 1")])
def test_a_node_that_is_evicted_writes_a_checkpoint_and_its_restart_does_not_count(
    cluster: Cluster, undisturbed: Undisturbed, seldom: str, strict: str, store: ObjectStore, index: int
) -> None:
    number = len(attempts(store, undisturbed)) + 1
    job = launched(cluster, seldom, strict)
    before = under_way(job, lambda: node(0))
    pod = node(index)
    evict(pod)

    def shows() -> str | None:
        (trainjob,) = get("trainjobs", "", namespace=NAMESPACE)
        words = in_words(trainjob)  # progress comes into it some seconds after the log has it, a disruption at once
        return words if disruptions(trainjob) and " of 8,192 images" in words else None

    shown = until("the TrainJob's own words, of progress and of the disruption", shows, 60)
    assert f"taken off the node: Eviction API: evicting ({pod})" in shown
    (jobset,) = until(
        "the restart",
        lambda: (
            [one for one in get("jobsets", "", namespace=NAMESPACE) if one.get("status", {}).get("restarts")] or None
        ),
    )
    assert not jobset["status"].get("restartsCountTowardsMax")
    state = until(f"Job {job}", lambda: ended(job), LONGEST_SECONDS)
    said = log_of(pod_of(job, "Succeeded"), NAMESPACE) if state == "Complete" else told(job)
    assert state == "Complete", said
    assert f"its pod was taken off the node: Eviction API: evicting ({pod})" in said
    assert continued_at(said) >= before
    assert made(store, undisturbed, number)["weights"]["sha256"] == undisturbed.generator
    assert get("trainjobs", "", namespace=NAMESPACE) == []


def pod_of(job: str, phase: str = "Running") -> str:
    """The newest pod of a Job that is in a phase."""

    def running() -> str | None:
        pods = get("pods", "", "-l", f"job-name={job}", f"--field-selector=status.phase={phase}", namespace=NAMESPACE)
        stay = [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return str(stay[-1]) if stay else None

    return until(f"a pod of {job}", running)


def only_once(text: str) -> str:
    """A Job that fails with its first pod that counts."""
    job = yaml.safe_load(text)
    job["spec"]["backoffLimit"] = 0
    return yaml.safe_dump(job)


SIGNAL_ALL = "import os, signal; os.kill(-1, signal.{})"  # every process of the container but its first, and this one


@contextmanager
def held(pod: str) -> Iterator[None]:
    """While the block lasts, a node does nothing; the others wait for it."""

    def send(signal: str) -> None:
        kubectl("-n", NAMESPACE, "exec", pod, "--", "python", "-c", SIGNAL_ALL.format(signal))

    send("SIGSTOP")
    try:
        yield
    finally:
        send("SIGCONT")


def test_a_launching_pod_that_is_evicted_leaves_its_trainjob_alone_and_the_next_one_follows_it(
    cluster: Cluster, undisturbed: Undisturbed, seldom: str, strict: str, store: ObjectStore
) -> None:
    number = len(attempts(store, undisturbed)) + 1
    text = only_once(cluster.done("rerun", seldom, "distill", "--force", "--profile", strict))
    job = create(text).removeprefix("job.batch/")
    under_way(job, lambda: node(0))
    with held(node(0)):  # or the training may have ended before the next one is there
        (before,) = get("trainjobs", "", namespace=NAMESPACE)
        first = pod_of(job)
        evict(first)
        second = until("the next launching pod", lambda: found if (found := pod_of(job)) != first else None)
        until("the next one's word", lambda: "adopted" in log_of(second, NAMESPACE) or None)
    (after,) = get("trainjobs", "", namespace=NAMESPACE)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert until(f"Job {job}", lambda: ended(job), LONGEST_SECONDS) == "Complete", told(job)
    assert "continuing from" not in told(job)  # nobody disturbed the workers
    assert made(store, undisturbed, number)["weights"]["sha256"] == undisturbed.generator


def test_a_step_that_trains_in_its_own_pod_is_evicted_and_goes_on_from_its_checkpoint_in_the_next(
    cluster: Cluster, undisturbed: Undisturbed, store: ObjectStore
) -> None:
    number = len(attempts(store, undisturbed)) + 1
    fields = yaml.safe_load(Path(cluster.profile).read_text(encoding="utf-8"))
    steps = {**fields["steps"], "distill": {"cpu": "200m", "launcher": "local"}}
    alone = installed.profile(cluster.folder, cluster.images, "alone.yaml", steps=steps)
    text = only_once(cluster.done("rerun", undisturbed.run, "distill", "--force", "--profile", alone))
    job = create(text).removeprefix("job.batch/")

    def a_quarter() -> int | None:  # its log tells of progress once a minute only
        assert ended(job) is None, told(job)
        there = checkpoints(store, undisturbed, number)
        return there if there >= IMAGES // 4 else None

    before = until("a quarter of the images", a_quarter, LONGEST_SECONDS)
    first = pod_of(job)
    evict(first)
    second = until("the next pod", lambda: found if (found := pod_of(job)) != first else None)
    assert until(f"Job {job}", lambda: ended(job), LONGEST_SECONDS) == "Complete", told(job)
    assert continued_at(log_of(second, NAMESPACE)) >= before
    assert made(store, undisturbed, number)["weights"]["sha256"] == undisturbed.generator
