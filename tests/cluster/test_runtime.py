"""`runtime` beside the installed overlay, and `doctor` on a cluster."""

from __future__ import annotations

from tests.cluster.conftest import Cluster
from tests.cluster.kubectl import kubectl


def test_what_runtime_prints_is_what_is_installed(cluster: Cluster) -> None:
    text = cluster.done("runtime", "--profile", cluster.profile)
    said = kubectl("apply", "-f", "-", "--dry-run=server", stdin=text).splitlines()
    assert said and all("unchanged" in line for line in said), said


def test_doctor_finds_what_a_profile_needs(cluster: Cluster) -> None:
    said = cluster.pipeline("doctor", "--profile", cluster.profile)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "sida-torch" in said.stdout
