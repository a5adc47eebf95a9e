"""A Kubeflow with several users, as the API server sees it: manifests/users, and namespaces as Kubeflow's profiles make them.

Every statement of docs/administration.md about rights is asked of the server here, as the accounts that it is about.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import Cluster
from tests.cluster.kubectl import Object, apply, get, kubectl, until
from tests.cluster.test_overlays import may
from tests.conftest import ROOT
from tests.manifests.render import MANIFESTS, named, render

ANN, BOB = "sida-test-ann", "sida-test-bob"
EDIT = "sida-test-kubeflow-edit"  # in place of kubeflow-edit, which a cluster with Kubeflow has
LABEL = "rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit"


def cluster_role(name: str, **fields: Any) -> Object:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, **fields}


def namespace_of(user: str) -> list[Object]:
    """As Kubeflow's profile controller makes it, as far as it matters here."""
    labels = {"app.kubernetes.io/part-of": "kubeflow-profile", "pod-security.kubernetes.io/enforce": "restricted"}
    account = {"kind": "ServiceAccount", "name": "default-editor", "namespace": user}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": user, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default-editor", "namespace": user}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "default-editor", "namespace": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": EDIT},
            "subjects": [account, {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": f"{user}@test"}],
        },
    ]


@pytest.fixture(scope="module")
def users(cluster: Cluster) -> Iterator[None]:
    """manifests/users under names of the tests' own, aggregated as Kubeflow does it; two users."""
    ours = named(render(MANIFESTS / "users"), "ClusterRole", "sida-kubeflow-edit")
    label = f"{LABEL}-sida-test"
    aggregating = cluster_role(EDIT, rules=[])
    aggregating["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}
    role = cluster_role("sida-test-edit", rules=ours["rules"])
    role["metadata"]["labels"] = {label: "true"}
    try:
        apply([aggregating, role, *namespace_of(ANN), *namespace_of(BOB)])
        until("the aggregated role", lambda: json.loads(kubectl("get", "clusterrole", EDIT, "-o", "json"))["rules"])
        yield
    finally:
        kubectl("delete", "namespace", ANN, BOB, "--ignore-not-found", "--wait=false")
        kubectl("delete", "clusterrole", EDIT, "sida-test-edit", "--ignore-not-found")


def editor(user: str) -> tuple[str, ...]:
    return ("--as", f"system:serviceaccount:{user}:default-editor")


def person(user: str) -> tuple[str, ...]:
    return ("--as", f"{user}@test")


def test_the_server_accepts_what_is_installed_once(cluster: Cluster) -> None:
    items = render(MANIFESTS / "users")
    for item in items:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = "default"
    assert len(apply(items, "--dry-run=server").splitlines()) == len(items)


LAUNCHING = [
    ("create", "trainjobs.trainer.kubeflow.org"),
    ("get", "trainjobs.trainer.kubeflow.org"),
    ("list", "trainjobs.trainer.kubeflow.org"),
    ("patch", "trainjobs.trainer.kubeflow.org"),
    ("delete", "trainjobs.trainer.kubeflow.org"),
    ("list", "pods"),
    ("list", "events"),
]


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("who", [editor, person])
def test_a_user_may_launch_in_the_own_namespace_and_nothing_in_another(who: Any) -> None:
    for verb, what in LAUNCHING:
        assert may(who(ANN), verb, what, ANN), (verb, what)
        assert not may(who(ANN), verb, what, BOB), (verb, what)
    assert may((*who(ANN), "--subresource=log"), "get", "pods", ANN)
    assert not may((*who(ANN), "--subresource=log"), "get", "pods", BOB)
    for verb in ("create", "patch", "delete"):
        assert not may(who(ANN), verb, "clustertrainingruntimes.trainer.kubeflow.org", ANN)
        assert not may(who(ANN), verb, "trainingruntimes.trainer.kubeflow.org", ANN)


@pytest.mark.usefixtures("users")
def test_the_account_of_pods_that_compute_may_nothing() -> None:
    account = ("--as", f"system:serviceaccount:{ANN}:default")
    for verb, what in [*LAUNCHING, ("get", "secrets")]:
        assert not may(account, verb, what, ANN), (verb, what)


@pytest.mark.usefixtures("users")
def test_a_training_job_of_a_user_starts_by_the_cluster_s_runtime_in_a_restricted_namespace(cluster: Cluster) -> None:
    """With volumes in every node's pod: a claim that two pods mount at once, one for reading, one as a cache that both write."""
    known = kubectl("api-resources", "--no-headers", "-o", "name").split()
    if "clustertrainingruntimes.trainer.kubeflow.org" not in known:
        pytest.skip("this cluster has no Kubeflow Trainer")
    runtime = named(render(MANIFESTS / "users"), "ClusterTrainingRuntime", "sida-torch")
    runtime["metadata"]["name"] = "sida-test-torch"
    try:
        apply([runtime, _job(cluster)])
        pods = until("two pods that have ended", _ended, 240)
        for pod in pods:
            name = pod["metadata"]["name"]
            assert pod["status"]["phase"] == "Succeeded", kubectl("-n", ANN, "logs", name, check=False)
            assert pod["spec"].get("serviceAccountName") == "default"
            assert not any("projected" in volume for volume in pod["spec"]["volumes"])
            assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    finally:
        kubectl("-n", ANN, "delete", "trainjob", "sida-users", "--ignore-not-found", check=False)
        kubectl("delete", "clustertrainingruntime", "sida-test-torch", "--ignore-not-found")


def _ended() -> list[Any] | None:
    pods = get("pods", "", "-l", "jobset.sigs.k8s.io/jobset-name=sida-users", namespace=ANN)
    over = [pod for pod in pods if pod["status"].get("phase") in ("Succeeded", "Failed")]
    return over if len(over) == 2 else None


def _job(cluster: Cluster) -> Object:
    from sida.launch.pod import Pod
    from sida.launch.target import Target
    from sida.launch.trainjob_manifest import train_job

    pod = Pod(image=cluster.images.cpu, service_account="default", cpu="20m", memory="128Mi", run_as_user=10001)
    target = Target(namespace=ANN, runtime="sida-test-torch", runtime_kind="ClusterTrainingRuntime", pod=pod, nodes=2)
    made = train_job(target, name="sida-users", step="distill", run="r", folder="j", processes=2, threads=1)
    made["spec"]["trainer"] |= {"command": ["python", "-c", "print('here')"], "args": []}
    return made


@pytest.mark.usefixtures("users")
def test_doctor_says_unseen_of_what_a_user_may_not_look_at(cluster: Cluster) -> None:
    """With the token of `default-editor`, as in a notebook; the roles of Kubeflow that let it read quotas are not here."""
    config = json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    token = kubectl("-n", ANN, "create", "token", "default-editor").strip()
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    path = cluster.folder / "ann.kubeconfig"
    path.write_text(json.dumps(config))
    mine = yaml.safe_load(Path(cluster.profile).read_text())
    mine["kfp"] |= {"namespace": ANN, "service_account": "default-editor"}
    mine["trainjob"] |= {"namespace": ANN}
    profile = cluster.folder / "ann.yaml"
    profile.write_text(yaml.safe_dump(mine | {"job_namespace": ANN}))
    command = [sys.executable, "-m", "pipeline", "doctor", "--profile", str(profile), "--json"]
    env = cluster.environment | {"KUBECONFIG": str(path)}
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    checks = {check["name"]: check for check in json.loads(said.stdout)["checks"]}
    for name in ("secrets", "quota", "room"):
        assert checks[name]["state"] == "unseen", checks[name]
        assert "Forbidden" in checks[name]["found"]
