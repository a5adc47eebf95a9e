"""The whole training as a TrainJob on two nodes, launched as users do it, and disturbed: the generator is the undisturbed one's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from sida.layout import checkpoint_at
from sida.stores import ObjectStore, open_store
from tests.cluster.conftest import STORE, Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import create, get, kubectl, log_of, until

KILL_ALL = "import os; os.kill(-1, 9)"  # every process of the container but its first, which dies of that
AWAY_SECONDS = 60
LONGEST_SECONDS = 900


@pytest.fixture
def store(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in cluster.environment.items():
        if name.startswith(("SIDA_", "AWS_")):
            monkeypatch.setenv(name, value)
    return open_store(STORE)


def kill_node(index: int) -> Callable[[], None]:
    """kill -9 of everything on one of the nodes."""

    def kill() -> None:
        kubectl("-n", NAMESPACE, "exec", node(index), "--", "python", "-c", KILL_ALL, check=False)

    return kill


def delete_node_0() -> None:
    kubectl("-n", NAMESPACE, "delete", "pod", node(0), "--grace-period=0", "--force")


def node(index: int) -> str:
    """Name of the running pod of a node."""

    def running() -> str | None:
        selector = f"app.kubernetes.io/component=trainer,batch.kubernetes.io/job-completion-index={index}"
        pods = get("pods", "", "-l", selector, "--field-selector=status.phase=Running", namespace=NAMESPACE)
        return next((str(pod["metadata"]["name"]) for pod in pods), None)

    return until(f"node {index}", running)


def delete_launcher() -> None:
    kubectl("-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=distill", "--wait=false")


def store_away() -> None:
    kubectl("-n", NAMESPACE, "scale", "statefulset/seaweedfs", "--replicas=0")
    time.sleep(AWAY_SECONDS)
    kubectl("-n", NAMESPACE, "scale", "statefulset/seaweedfs", "--replicas=1")
    kubectl("-n", NAMESPACE, "rollout", "status", "statefulset/seaweedfs", "--timeout=180s", seconds=200)


def distill_again(cluster: Cluster, run: str) -> str:
    """A Job that makes a new attempt of distill; its name."""
    text = cluster.done("rerun", run, "distill", "--force", "--profile", cluster.profile)
    return create(text).removeprefix("job.batch/")


def attempts(store: ObjectStore, there: Undisturbed) -> list[str]:
    return [key for key in store.list(f"{there.folder}/") if key.endswith(".json")]


def checkpoints(store: ObjectStore, there: Undisturbed, attempt: int) -> int:
    """Images seen at the newest checkpoint of an attempt; 0 before the first."""
    folder = f"jobs/{there.folder.removeprefix('steps/')}/{attempt}/"
    found = (checkpoint_at(key.removeprefix(folder)) for key in store.list(f"{folder}checkpoints/"))
    return max((place[0] for place in found if place is not None), default=0)  # not what is told of parts meanwhile


def ended(job: str) -> Any:
    """The condition with which a Job has ended; None while it runs."""
    conditions = get("job", job, namespace=NAMESPACE)["status"].get("conditions") or []
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None)


def told(job: str) -> str:
    """What its pods said, for a test that fails."""
    pods = get("pods", "", "-l", f"job-name={job}", namespace=NAMESPACE)
    return "\n".join(log_of(pod["metadata"]["name"], NAMESPACE, "--tail=30") for pod in pods)


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(None, id="nobody disturbs it"),
        pytest.param(kill_node(1), id="node 1 is killed"),
        pytest.param(kill_node(0), id="node 0 is killed"),
        pytest.param(delete_node_0, id="the pod of node 0 is deleted"),
        pytest.param(delete_launcher, id="the launching pod is deleted"),
        pytest.param(store_away, id="the store is away for a minute"),
    ],
)
def test_a_disturbed_training_ends_in_the_undisturbed_generator(
    cluster: Cluster, undisturbed: Undisturbed, store: ObjectStore, disturb: Callable[[], None] | None
) -> None:
    assert generator_of(cluster, undisturbed, store, disturb) == undisturbed.generator


def test_a_divided_training_whose_node_is_killed_ends_in_the_undisturbed_generator(
    cluster: Cluster, divided: Undisturbed, store: ObjectStore
) -> None:
    alone = generator_of(cluster, divided, store, None)
    assert alone != divided.generator  # its sums are rounded otherwise, as it was divided
    assert generator_of(cluster, divided, store, kill_node(1)) == alone


def generator_of(cluster: Cluster, there: Undisturbed, store: ObjectStore, disturb: Callable[[], None] | None) -> str:
    """SHA-256 of the generator of a new attempt of distill, disturbed when a third of the images is seen."""
    number = len(attempts(store, there)) + 1
    job = distill_again(cluster, there.run)
    if disturb is not None:

        def a_third() -> bool | None:
            assert ended(job) is None, told(job)
            return checkpoints(store, there, number) >= 8_192 // 3 or None

        until("a third of the images", a_third, LONGEST_SECONDS)
        disturb()
    state = until(f"Job {job}", lambda: ended(job), LONGEST_SECONDS)
    assert state == "Complete", told(job)
    made = json.loads(store.read(f"{there.folder}/{number}.json"))
    assert get("trainjobs", "", namespace=NAMESPACE) == []  # its result and log are in the store
    return str(made["result"]["weights"]["sha256"])
