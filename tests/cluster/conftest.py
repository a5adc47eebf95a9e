"""One installation for all tests of the cluster, and the command line beside it as a user has it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import installed
from tests.cluster.kubectl import forwarded, kubectl, until
from tests.conftest import ROOT

HERE = Path(__file__).resolve().parent
STORE = "s3://sida/store"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is one of a cluster."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@dataclass(frozen=True)
class Cluster:
    """The installation, and where it is reached from here."""

    images: installed.Images
    profile: str
    folder: Path
    environment: dict[str, str]

    def pipeline(self, *arguments: str, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        """``sida``, with addresses and keys as docs/kubeflow.md has them."""
        command = [sys.executable, "-m", "pipeline", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def done(self, *arguments: str, seconds: float = 900) -> str:
        """The same, which must succeed; what it prints."""
        said = self.pipeline(*arguments, seconds=seconds)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout


@pytest.fixture(scope="session")
def images() -> installed.Images:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("set KUBECONFIG to the cluster that the tests may use (namespaces sida-test*)")
    kubectl("get", "--raw", "/readyz")
    return installed.Images.from_environment()


@pytest.fixture(scope="session")
def cluster(images: installed.Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The overlay for kind, installed; gone when the tests have ended, whatever came of them."""
    folder = tmp_path_factory.mktemp("cluster")
    try:
        keys = installed.install(images)
        with (
            forwarded(installed.NAMESPACE, "seaweedfs", 9000, free_port()) as store,
            forwarded(installed.NAMESPACE, "mlflow", 5000, free_port()) as mlflow,
        ):
            for address in (store, mlflow):
                until(f"port-forward to {address}", lambda address=address: answers(address), 60)  # type: ignore[misc]
            yield Cluster(
                images,
                installed.profile(folder, images),
                folder,
                os.environ
                | {
                    "SIDA_STORE": STORE,
                    "SIDA_S3_ENDPOINT": store,
                    "AWS_ACCESS_KEY_ID": keys[0],
                    "AWS_SECRET_ACCESS_KEY": keys[1],
                    "MLFLOW_TRACKING_URI": mlflow,
                    "SIDA_RUNS": str(folder / "runs"),
                    "SIDA_CACHE": str(folder / "cache"),
                },
            )
    finally:
        installed.remove()


@dataclass(frozen=True)
class Undisturbed:
    """A run of this machine in the cluster's store: what the cluster's own must come to."""

    run: str
    generator: str  # sha256 of its weights
    folder: str  # of distill's attempts in the store


RECIPE = f"""extends: {ROOT}/tests/recipes/tiny
name: cluster
description: two nodes on a real cluster, checkpoints often
method: {{images: 8_192}}
execution: {{checkpoint_every: 512, processes: 2}}
expected: null
"""


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster) -> Undisturbed:
    return _run_here(cluster, "whole.yaml", RECIPE)


@pytest.fixture(scope="session")
def divided(cluster: Cluster, undisturbed: Undisturbed) -> Undisturbed:
    """The same run, which this machine takes as it is, with networks that the two nodes are to divide."""
    made = _run_here(
        cluster, "divided.yaml", RECIPE.replace("processes: 2", "processes: 2, shard: full, shard_over: 2")
    )
    assert (made.folder, made.generator) == (undisturbed.folder, undisturbed.generator) and made.run != undisturbed.run
    return made


def _run_here(cluster: Cluster, name: str, text: str) -> Undisturbed:
    recipe = cluster.folder / name
    recipe.write_text(text)
    told: dict[str, Any] = json.loads(cluster.done("run", str(recipe), "--json"))
    steps = {step["name"]: step for step in told["steps"]}
    sha256 = Path(told["generator"]).stem
    run = Path(told["report"]).parent.name if "report" in told else told["run"]
    return Undisturbed(run, sha256, "steps/" + steps["distill"]["manifest"].rpartition("/steps/")[2].rpartition("/")[0])


def answers(address: str) -> bool:
    """Whether something listens at ``http://HOST:PORT``."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, int(port))) == 0


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
