"""`runtime` beside the installed overlay, and `doctor` on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from tests.cluster import installed
from tests.cluster.conftest import Cluster, answers, free_port
from tests.cluster.kubectl import difference, forwarded, until


def test_what_runtime_prints_is_what_is_installed(cluster: Cluster) -> None:
    text = cluster.done("runtime", "--profile", cluster.profile)
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert {item["kind"] for item in objects} == {"TrainingRuntime", "Role", "RoleBinding"}
    assert difference(objects) == ""


def test_doctor_finds_what_a_profile_needs(cluster: Cluster) -> None:
    with reached_kubeflow() as kfp:
        profile = installed.profile(cluster.folder, cluster.images, "doctor.yaml", kfp=kfp)
        said = cluster.pipeline("doctor", "--profile", profile, "--json")
    checks = {check["name"]: check for check in json.loads(said.stdout)["checks"]}
    bad = {name for name, check in checks.items() if check["state"] == "bad"}
    assert bad == (set() if kfp["host"] != NOBODY else {"engine"}), said.stdout
    assert said.returncode == (1 if bad else 0)
    assert "sida-torch" in checks["trainer"]["found"]
    assert {checks[name]["state"] for name in ("store", "mlflow", "kubernetes", "trainer", "secrets")} == {"ok"}


NOBODY = "http://127.0.0.1:9"


@contextmanager
def reached_kubeflow() -> Iterator[dict[str, str]]:
    """Kubeflow Pipelines as a profile names it; where the cluster has none, an address that nobody answers at."""
    if installed.pipelines() != "kubeflow":
        yield {"host": NOBODY, "experiment": "sida-test"}
        return
    with forwarded("kubeflow", "ml-pipeline", 8888, free_port()) as host:
        until("Kubeflow Pipelines", lambda: answers(host), 60)
        yield {"host": host, "experiment": "sida-test"}
