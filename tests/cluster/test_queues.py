"""Trainings in a queue of Kueue with room for one: the next says why it waits and where, an urgent one takes the first's place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sida.launch.trainjob_manifest import PRIORITY, QUEUE
from sida.stores import ObjectStore
from tests.cluster import installed
from tests.cluster.conftest import RECIPE, Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import Object, apply, create, get, kubectl, until
from tests.cluster.test_training import LONGEST_SECONDS, attempts, checkpoints, ended, store, told

__all__ = ["store"]  # the fixture
NAME, URGENT = "sida-test", "sida-test-urgent"
TOLD_SECONDS = 60


def kueue(kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}} | fields


QUOTA = {  # of one training: two nodes of 100m
    "coveredResources": ["cpu", "memory"],
    "flavors": [
        {
            "name": NAME,
            "resources": [{"name": "cpu", "nominalQuota": "250m"}, {"name": "memory", "nominalQuota": "64Gi"}],
        }
    ],
}
CLUSTER_WIDE = [
    kueue("ResourceFlavor", NAME),
    kueue("WorkloadPriorityClass", URGENT, value=1000),
    kueue(
        "ClusterQueue",
        NAME,
        spec={
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [QUOTA],
        },
    ),
]


@pytest.fixture(scope="session")
def kueue_there() -> Iterator[None]:
    """A ClusterQueue of ours. Skips where the cluster has no Kueue, or nobody who works for its objects."""
    if "NotFound" in kubectl("get", "crd", "workloads.kueue.x-k8s.io", check=False):
        pytest.skip("this cluster has no Kueue: tests/cluster/kueue.sh builds and deploys it")
    apply(CLUSTER_WIDE)
    try:
        try:
            until("the ClusterQueue", lambda: active("clusterqueue") or None, 60)
        except AssertionError:
            pytest.skip("this cluster serves Kueue's API, but no controller of it answers")
        yield
    finally:
        for item in reversed(CLUSTER_WIDE):
            kind = f"{item['kind']}.kueue.x-k8s.io"
            kubectl("delete", kind, item["metadata"]["name"], "--ignore-not-found", "--wait=false", check=False)


def active(kind: str) -> bool:
    found = get(f"{kind}.kueue.x-k8s.io", NAME, namespace=NAMESPACE)
    conditions = found.get("status", {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Active", "True") for one in conditions)


@pytest.fixture(scope="session")
def queue(kueue_there: None, request: pytest.FixtureRequest) -> Cluster:
    """The installation, with a queue in its namespace."""
    cluster: Cluster = request.getfixturevalue("cluster")
    local = kueue("LocalQueue", NAME, spec={"clusterQueue": NAME})
    local["metadata"]["namespace"] = NAMESPACE
    apply([local])
    until("the LocalQueue", lambda: active("localqueue") or None, 60)
    return cluster


def profile(cluster: Cluster, **more: str) -> str:
    """The tests' profile, with trainings small enough for the queue."""
    fields = yaml.safe_load(Path(cluster.profile).read_text(encoding="utf-8"))
    steps = fields["steps"] | {"distill": fields["steps"]["distill"] | {"cpu": "100m"}}
    jobs = fields["trainjob"] | {"queue": NAME} | more
    return installed.profile(
        cluster.folder, cluster.images, f"queue-{'-'.join(more.values())}.yaml", steps=steps, trainjob=jobs
    )


def distill(cluster: Cluster, run: str, profile: str) -> str:
    """A Job that makes a new attempt of distill; its name."""
    text = cluster.done("rerun", run, "distill", "--force", "--profile", profile)
    return create(text).removeprefix("job.batch/")


def says(job: str, words: str, seconds: float = TOLD_SECONDS) -> str:
    """What the Job's pods said, once ``words`` (an expression) are in it."""

    def said() -> str | None:
        text = told(job)
        return text if re.search(words, text) else None

    try:
        return until(words, said, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{told(job)}") from None


def trainjobs(run: str) -> list[Object]:
    return list(get("trainjobs", "", "-l", f"sida/run={run}", namespace=NAMESPACE))


@pytest.fixture(scope="session")
def second(queue: Cluster) -> Undisturbed:
    """Another, shorter training, run on this machine."""
    recipe = queue.folder / "second.yaml"
    recipe.write_text(RECIPE.replace("8_192", "2_048").replace("name: cluster", "name: second"))
    said = json.loads(queue.done("run", str(recipe), "--json"))
    made = next(step["manifest"] for step in said["steps"] if step["name"] == "distill")
    folder = "steps/" + made.rpartition("/steps/")[2].rpartition("/")[0]
    return Undisturbed(Path(said["report"]).parent.name, Path(said["generator"]).stem, folder)


def test_a_preempted_training_ends_in_the_undisturbed_generator(
    queue: Cluster, undisturbed: Undisturbed, second: Undisturbed, store: ObjectStore
) -> None:
    number, patient, urgent = (
        len(attempts(store, undisturbed)) + 1,
        profile(queue),
        profile(queue, priority_class=URGENT),
    )
    first = distill(queue, undisturbed.run, patient)

    def a_quarter() -> bool | None:
        assert ended(first) is None, told(first)
        return checkpoints(store, undisturbed, number) >= 8_192 // 4 or None

    until("a quarter of the images", a_quarter, LONGEST_SECONDS)
    # The second waits, and says why; whoever gives up takes its TrainJob along.
    waits = distill(queue, second.run, patient)
    says(waits, rf"it waits in a queue: place 1 of 1 in {NAME}: .*insufficient unused quota for cpu in flavor {NAME}")
    (job,) = trainjobs(second.run)
    assert job["spec"]["suspend"] is True and job["metadata"]["labels"][QUEUE] == NAME
    kubectl("-n", NAMESPACE, "delete", "job", waits)
    until("the end of the second TrainJob", lambda: not trainjobs(second.run) or None)
    # An urgent one takes the place of the first.
    before = checkpoints(store, undisturbed, number)
    takes = distill(queue, second.run, urgent)
    says(first, rf"it had to give its place back: Preempted to accommodate .*; place 1 of 1 in {NAME}")
    assert trainjobs(second.run)[0]["metadata"]["labels"][PRIORITY] == URGENT
    assert until("the urgent training", lambda: ended(takes), LONGEST_SECONDS) == "Complete", told(takes)
    assert made_by(store, second) == second.generator
    # The first goes on from where it was, and nobody counts it as a failure.
    assert until("the first training", lambda: ended(first), LONGEST_SECONDS) == "Complete", told(first)
    assert made_by(store, undisturbed) == undisturbed.generator
    assert get("job", first, namespace=NAMESPACE)["status"].get("failed", 0) == 0
    log = store.read(f"jobs/{undisturbed.folder.removeprefix('steps/')}/{number}/log.txt").decode()
    assert (went_on := re.findall(r"continuing from the checkpoint at ([\d,]+) images", log))
    assert int(went_on[-1].replace(",", "")) >= before
    assert not re.search(r"restart \d", told(first))
    assert get("trainjobs", "", namespace=NAMESPACE) == []


def made_by(store: ObjectStore, there: Undisturbed) -> str:
    """Digest of the generator of the newest attempt."""
    newest = max(attempts(store, there), key=lambda key: int(Path(key).stem))
    return str(json.loads(store.read(newest))["result"]["weights"]["sha256"])


def test_a_heavy_job_of_rerun_begins_when_kueue_lets_it(queue: Cluster, undisturbed: Undisturbed) -> None:
    text = queue.done("rerun", undisturbed.run, "score", "--profile", profile(queue))
    made = yaml.safe_load(text)
    assert (made["spec"]["suspend"], made["metadata"]["labels"][QUEUE]) == (True, NAME)
    job = create(text).removeprefix("job.batch/")
    assert until("the rerun", lambda: ended(job)) == "Complete", told(job)
    (workload,) = (
        one
        for one in get("workloads.kueue.x-k8s.io", "", namespace=NAMESPACE)
        if any(owner["name"] == job for owner in one["metadata"]["ownerReferences"])
    )
    assert workload["spec"]["queueName"] == NAME
    assert any((one["type"], one["status"]) == ("Admitted", "True") for one in workload["status"]["conditions"])


def test_a_queue_that_does_not_exist_is_told(queue: Cluster, undisturbed: Undisturbed) -> None:
    job = distill(queue, undisturbed.run, profile(queue, queue="sida-test-nothing"))
    try:
        says(job, r"its queue will not take it: LocalQueue sida-test-nothing doesn't exist")
    finally:
        kubectl("-n", NAMESPACE, "delete", "job", job)
        until("the TrainJob's end", lambda: not trainjobs(undisturbed.run) or None)
