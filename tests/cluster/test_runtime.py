"""`runtime` beside the installed overlay, and `doctor` on a cluster."""

from __future__ import annotations

import yaml

from tests.cluster.conftest import Cluster
from tests.cluster.kubectl import difference


def test_what_runtime_prints_is_what_is_installed(cluster: Cluster) -> None:
    text = cluster.done("runtime", "--profile", cluster.profile)
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert {item["kind"] for item in objects} == {"TrainingRuntime", "Role", "RoleBinding"}
    assert difference(objects) == ""


def test_doctor_finds_what_a_profile_needs(cluster: Cluster) -> None:
    said = cluster.pipeline("doctor", "--profile", cluster.profile)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "sida-torch" in said.stdout
