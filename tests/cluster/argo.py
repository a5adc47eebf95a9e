"""A workflow controller that watches the tests' namespace: one that is there, else a copy of the cluster's own for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import Object, apply, kubectl


@contextmanager
def controlled() -> Iterator[None]:
    """A controller that watches NAMESPACE, while the block lasts. Skips where the cluster has none that could be copied."""
    there = json.loads(kubectl("get", "deployments", "--all-namespaces", "-o", "json"))["items"]
    there = [item for item in there if "workflow-controller" in json.dumps(item["spec"]["template"]["spec"])]
    if not there:
        pytest.skip("the cluster has no Argo Workflows")
    if any(not _narrowed(item) for item in there):
        yield
        return
    mine = _copy(there[0])
    where, name = mine[0]["metadata"]["namespace"], mine[0]["metadata"]["name"]
    try:
        apply(mine)
        kubectl("-n", where, "rollout", "status", f"deployment/{name}", "--timeout=120s")
        yield
    finally:
        kubectl("-n", where, "delete", f"deployment/{name}", f"configmap/{name}", "--ignore-not-found")


def _narrowed(deployment: Object) -> bool:
    """Whether it watches other namespaces alone."""
    arguments = deployment["spec"]["template"]["spec"]["containers"][0].get("args") or []
    return "--namespaced" in arguments


def _copy(deployment: Object) -> list[Object]:
    """The same controller with defaults of its own; what the cluster's one archives or retries is another's business."""
    name, spec = f"workflow-controller-{NAMESPACE}", deployment["spec"]["template"]["spec"]
    container = dict(spec["containers"][0])
    kept: list[Any] = list(container["args"])
    kept[kept.index("--configmap") + 1] = name
    container["args"] = [*kept, "--managed-namespace", NAMESPACE]
    container["env"] = [one for one in container.get("env") or [] if not one["name"].startswith("TRANSIENT")]
    labels = {"app": name}
    metadata = {"name": name, "namespace": deployment["metadata"]["namespace"], "labels": labels}
    pod = {"metadata": {"labels": labels}, "spec": spec | {"containers": [container]}}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        },
    ]
