"""The whole DAG on Argo Workflows without Kubeflow Pipelines: submitted, disturbed, scheduled and ended as users do it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import argo, installed
from tests.cluster.conftest import Cluster, Undisturbed

WORKFLOW = "workflows.argoproj.io/workflow"


@pytest.fixture(scope="module")
def mine(cluster: Cluster) -> Iterator[str]:
    """The shipped profile for Argo, on amounts that leave room for others on two cores."""
    profile = installed.profile(cluster.folder, cluster.images, "argo.yaml", shipped="argo")
    with argo.controlled():
        yield profile


@pytest.fixture(scope="module")
def first(cluster: Cluster, mine: str, undisturbed: Undisturbed) -> dict[str, Any]:
    """A whole run, distilled anew on two nodes of a TrainJob; what ``submit --wait --json`` printed, and its seconds."""
    began = time.monotonic()
    recipe = str(cluster.folder / "recipe.yaml")
    told = json.loads(
        cluster.done("submit", recipe, "--profile", mine, "--force", "distill", "--wait", "--json", seconds=1200)
    )
    return told | {"seconds": time.monotonic() - began}


def test_a_whole_run_ends_in_the_generator_of_this_machine(
    cluster: Cluster, mine: str, first: dict[str, Any], undisturbed: Undisturbed
) -> None:
    assert first["state"] == "SUCCEEDED"
    status = json.loads(cluster.done("status", first["run"], "--profile", mine, "--json"))
    print(status, first["seconds"])
    states = {step["name"]: step["state"] for step in status["steps"]}
    assert set(states.values()) == {"SUCCEEDED"}
