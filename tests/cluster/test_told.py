"""What keeps a TrainJob from running is told by its launching step: in one line, within 30 seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from sida.launch.grace import FLOOR_SECONDS
from sida.launch.pod import secret_key
from tests.cluster.conftest import Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import apply, create, get, kubectl, until
from tests.cluster.test_training import ended, told

TOLD_SECONDS = 30
NOTHING = "localhost:5001/nothing@sha256:" + "0" * 64
GPU = "nvidia.com/gpu"
NO_GPUS = {  # of what the launching step's own pod does not ask for
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "no-gpus", "namespace": NAMESPACE},
    "spec": {"hard": {f"requests.{GPU}": "0"}},
}


@contextmanager
def launched(cluster: Cluster, run: str, **changes: Any) -> Iterator[str]:
    """A Job that launches distill with another pod for its TrainJob; ended, with the TrainJob, after the block."""
    job = yaml.safe_load(cluster.done("rerun", run, "distill", "--force", "--profile", cluster.profile))
    for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] == "SIDA_TRAINJOB":
            target = json.loads(variable["value"])
            variable["value"] = json.dumps(target | {"pod": target["pod"] | changes})
    name = create(yaml.safe_dump(job)).removeprefix("job.batch/")
    try:
        yield name
    finally:
        kubectl("-n", NAMESPACE, "delete", "job", name)  # SIGTERM: the launching step takes its TrainJob along
        try:
            until(
                "the TrainJob's end", lambda: not get("trainjobs", "", namespace=NAMESPACE) or None, FLOOR_SECONDS + 30
            )
        except AssertionError:
            kubectl("-n", NAMESPACE, "delete", "trainjobs", "--all")  # the next test is to begin with none
            raise


@contextmanager
def unlimited() -> Iterator[None]:
    """While the block lasts, the installation's quota is none for processors: it would be the first to refuse."""
    before = get("resourcequota", "sida", namespace=NAMESPACE)["spec"]["hard"]["requests.cpu"]

    def limit(amount: str) -> None:
        change = json.dumps({"spec": {"hard": {"requests.cpu": amount}}})
        kubectl("-n", NAMESPACE, "patch", "resourcequota", "sida", "--type=merge", "-p", change)

    limit("1M")
    try:
        yield
    finally:
        limit(before)


def line_of(job: str, words: tuple[str, ...]) -> str:
    """The line of the launching step's log that has these words; it comes in time after the TrainJob was made."""
    try:
        until("a TrainJob", lambda: get("trainjobs", "", namespace=NAMESPACE) or None)
    except AssertionError as error:
        raise AssertionError(f"{error}: {told(job)}") from None
    began = time.monotonic()

    def said() -> str | None:
        assert ended(job) is None or "OOM" in words[0], told(job)
        return next((line for line in told(job).splitlines() if all(word in line for word in words)), None)

    try:
        return until(f"a line with {words}", said, TOLD_SECONDS + 5)
    except AssertionError as error:
        raise AssertionError(f"{error}: {told(job)}") from None
    finally:
        print(f"told after {time.monotonic() - began:.0f} s")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"image": NOTHING}, ("image", "nothing@sha256"), id="an image that cannot be pulled"),
        pytest.param({"cpu": "1000"}, ("room", "cpu"), id="no node has room"),
        pytest.param(
            {"env": {"AWS_ACCESS_KEY_ID": secret_key("nobodys", "access-key")}},
            ("nobodys",),
            id="a Secret that is not there",
        ),
    ],
)
def test_what_a_trainjob_waits_for_is_told(
    cluster: Cluster, undisturbed: Undisturbed, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with unlimited(), launched(cluster, undisturbed.run, **changes) as job:
        line_of(job, words)


def test_a_quota_that_lets_no_pod_in_is_told(cluster: Cluster, undisturbed: Undisturbed) -> None:
    apply([NO_GPUS])
    try:
        with launched(cluster, undisturbed.run, accelerator=GPU) as job:
            line_of(job, ("quota", GPU))
    finally:
        kubectl("-n", NAMESPACE, "delete", "resourcequota", "no-gpus")


def test_a_node_that_is_killed_for_memory_is_told_with_its_limit(cluster: Cluster, undisturbed: Undisturbed) -> None:
    with launched(cluster, undisturbed.run, memory="150Mi", shared_memory="64Mi") as job:
        assert "150Mi" in line_of(job, ("OOMKilled",))
