"""A training that is ended on two nodes and continued on one, by a profile that asks for fewer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sida.stores import ObjectStore
from tests.cluster import installed
from tests.cluster.conftest import Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import create, get, kubectl, log_of, until
from tests.cluster.test_evictions import continued_at, made, pod_of
from tests.cluster.test_training import LONGEST_SECONDS, attempts, checkpoints, distill_again, ended, store, told

__all__ = ["store"]


def fewer(cluster: Cluster, **division: int) -> str:
    """A profile whose distillation is divided otherwise."""
    steps = yaml.safe_load(Path(cluster.profile).read_text(encoding="utf-8"))["steps"]
    assert steps["distill"]["nodes"] == 2
    steps["distill"] |= division
    return installed.profile(cluster.folder, cluster.images, "fewer.yaml", steps=steps)


@pytest.mark.parametrize(
    ("division", "said_of_it"),
    [
        pytest.param({"nodes": 1}, "on 1 node with 2 processes (was 2 nodes with 2)", id="both processes on one node"),
        pytest.param({"nodes": 1, "processes": 1}, "on 1 node with 1 process (was 2 nodes with 2)", id="one process"),
    ],
)
def test_a_training_ended_on_two_nodes_goes_on_from_its_checkpoint_on_one(
    cluster: Cluster, undisturbed: Undisturbed, store: ObjectStore, division: dict[str, int], said_of_it: str
) -> None:
    number = len(attempts(store, undisturbed)) + 1
    first = distill_again(cluster, undisturbed.run)

    def a_third() -> int | None:
        assert ended(first) is None, told(first)
        there = checkpoints(store, undisturbed, number)
        return there if there >= 8_192 // 3 else None

    before = until("a third of the images", a_third, LONGEST_SECONDS)
    kubectl("-n", NAMESPACE, "delete", "job", first)
    until("the TrainJob's end", lambda: not get("trainjobs", "", namespace=NAMESPACE) or None)
    text = cluster.done("rerun", undisturbed.run, "distill", "--force", "--profile", fewer(cluster, **division))
    second = create(text).removeprefix("job.batch/")

    def of_the_second() -> dict[str, int] | None:
        assert ended(second) is None, told(second)
        jobs = get("trainjobs", "", namespace=NAMESPACE)
        return jobs[0]["spec"]["trainer"] if jobs else None

    trainer = until("the second TrainJob", of_the_second)
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (1, division.get("processes", 2))
    assert until(f"Job {second}", lambda: ended(second), LONGEST_SECONDS) == "Complete", told(second)
    said = log_of(pod_of(second, "Succeeded"), NAMESPACE)
    assert f"continuing {said_of_it}" in said
    assert continued_at(said) >= before
    weights = made(store, undisturbed, number)["weights"]["sha256"]
    assert (weights == undisturbed.generator) == (
        "processes" not in division
    )  # on one process sums are rounded otherwise
