"""The overlays as the API server takes them, and the permissions as it sees them."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.cluster import installed
from tests.cluster.conftest import Cluster
from tests.cluster.installed import NAMESPACE, pipelines
from tests.cluster.kubectl import apply, difference, get, kubectl

OPERATOR = ("--as", "somebody", "--as-group", "sida-operators")


@pytest.mark.parametrize("overlay", ["kind", "argo", "gpu"])
def test_the_server_accepts_every_object_of_an_overlay(cluster: Cluster, overlay: str) -> None:
    known = set(kubectl("api-resources", "--no-headers", "-o", "name").split())
    items = installed.objects_of(overlay)
    kueue = "localqueues.kueue.x-k8s.io" in known
    taken = [item for item in items if kueue or not item["apiVersion"].startswith("kueue.x-k8s.io/")]
    said = apply(taken, "--dry-run=server").splitlines()
    assert len(said) == len(taken) and all(line.endswith("(server dry run)") for line in said), said


def test_an_installation_is_applied_again_without_a_change(cluster: Cluster) -> None:
    assert difference(installed.objects_of("kind", cluster.images)) == ""


def test_every_pod_of_the_installation_is_ready_and_none_was_refused(cluster: Cluster) -> None:
    for kind, name in (("statefulset", "seaweedfs"), ("deployment", "mlflow")):
        assert get(kind, name, namespace=NAMESPACE)["status"]["readyReplicas"] == 1
    events = get("events", "", namespace=NAMESPACE)
    assert not [event["message"] for event in events if "violates PodSecurity" in event.get("message", "")]
    labels = get("namespace", NAMESPACE, namespace=NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def may(who: tuple[str, ...], verb: str, what: str, namespace: str = NAMESPACE) -> bool:
    said = kubectl("auth", "can-i", verb, what, "-n", namespace, *who, check=False)
    (answer,) = {"yes", "no"} & set(said.splitlines()) or {said}  # a warning may stand beside it
    assert answer in ("yes", "no"), said
    return answer == "yes"


def allowed(who: tuple[str, ...], **what: str) -> bool:
    """What ``auth can-i`` asks, also of groups that the cluster does not serve."""
    flags = dict(zip(who[::2], who[1::2], strict=True))
    subject = {"user": flags["--as"], "groups": [flags["--as-group"]] if "--as-group" in flags else []}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": subject | {"resourceAttributes": {"namespace": NAMESPACE} | what},
    }
    answer = kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed}", stdin=json.dumps(review))
    return answer.strip() == "true"


def _account(name: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return ("--as", f"system:serviceaccount:{namespace}:{name}")


def test_accounts_may_what_their_roles_say(cluster: Cluster) -> None:
    """Every verb of every Role is asked for, as those who are bound to it."""
    holders = {
        "sida-launcher": [_account("sida-launcher"), _account("pipeline-runner", pipelines())],
        "sida-operator": [OPERATOR],
        "sida-argo": [_account("sida-argo")],
        "sida-argo-user": [OPERATOR],
    }
    refused = []
    for item in [*installed.objects_of("kind"), *installed.objects_of("argo")]:
        if item["kind"] != "Role":
            continue
        for rule in item["rules"]:
            for resource, verb in itertools.product(rule["resources"], rule["verbs"]):
                plural, _, sub = resource.partition("/")
                what = {"group": rule["apiGroups"][0], "resource": plural, "subresource": sub, "verb": verb}
                what |= {"name": rule["resourceNames"][0]} if "resourceNames" in rule else {}
                refused += [
                    (who, verb, resource) for who in holders[item["metadata"]["name"]] if not allowed(who, **what)
                ]
    assert refused == []


@pytest.mark.parametrize(
    ("account", "verb", "what"),
    [
        ("sida-step", "get", "pods"),
        ("sida-step", "create", "trainjobs.trainer.kubeflow.org"),
        ("sida-trainer", "get", "secrets"),
        ("sida-trainer", "list", "pods"),
        ("sida-launcher", "get", "secrets"),
        ("sida-launcher", "create", "pods"),
        ("sida-launcher", "create", "jobs.batch"),
        ("sida-launcher", "delete", "pods"),
        ("sida-argo", "get", "workflows.argoproj.io"),
        ("sida-argo", "list", "pods"),
        ("sida-step", "create", "workflowtaskresults.argoproj.io"),
        ("seaweedfs", "get", "secrets"),
        ("mlflow", "list", "pods"),
    ],
)
def test_accounts_may_nothing_else(cluster: Cluster, account: str, verb: str, what: str) -> None:
    assert not may(_account(account), verb, what)


@pytest.mark.parametrize(("verb", "what"), [("get", "secrets"), ("create", "pods"), ("patch", "configmaps")])
def test_operators_may_nothing_else(cluster: Cluster, verb: str, what: str) -> None:
    assert not may(OPERATOR, verb, what)
