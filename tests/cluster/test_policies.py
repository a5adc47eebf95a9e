"""Network policies as the cluster enforces them: what must reach does, what must not does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.installed import NAMESPACE, pipelines
from tests.cluster.kubectl import Object, apply, get, kubectl, log_of, until

OURS = {"app.kubernetes.io/part-of": "sida"}
STORE, MLFLOW = f"seaweedfs.{NAMESPACE}:9000", f"mlflow.{NAMESPACE}:5000"
# Waits until names resolve, as a policy lets a pod out a moment after it has started; then tries each address.
PROBE = """
import json, socket, sys, time
found, end = {}, time.time() + 25
while time.time() < end:
    try:
        socket.getaddrinfo("%(store)s", 9000)
        break
    except OSError:
        time.sleep(1)
time.sleep(4)
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 4).close()
        found[address] = True
    except OSError as error:
        found[address] = False
print(json.dumps(found))
""" % {"store": STORE.partition(":")[0]}  # noqa: UP031 (braces are Python's)


def probe(cluster: Cluster, name: str, namespace: str, labels: dict[str, str], *addresses: str) -> Object:
    """A pod that tries addresses."""
    return pod(cluster, name, namespace, labels, ["python", "-c", PROBE, *addresses])


def pod(
    cluster: Cluster, name: str, namespace: str, labels: dict[str, str], command: list[str], **fields: Any
) -> Object:
    """A small pod as Pod Security's ``restricted`` wants it."""
    container = {
        "name": "main",
        "image": cluster.images.cpu,
        "command": command,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container | fields],
        },
    }


@pytest.fixture(scope="module")
def reached(cluster: Cluster) -> dict[str, dict[str, bool]]:
    """What each kind of pod reaches; all are asked at once."""
    listener = pod(
        cluster,
        "probe-listener",
        NAMESPACE,
        OURS | {"app.kubernetes.io/component": "trainer"},
        [
            "python",
            "-c",
            "import http.server as h; h.HTTPServer(('', 29500), h.SimpleHTTPRequestHandler).serve_forever()",
        ],
    )
    apply([listener])

    def address() -> str | None:
        status = get("pod", "probe-listener", namespace=NAMESPACE)["status"]
        return status.get("podIP") if status.get("phase") == "Running" else None

    trainer = f"{until('the listening trainer', address)}:29500"
    api = "kubernetes.default.svc:443"
    step = OURS | {"app.kubernetes.io/component": "fetch-teacher"}
    pods = [
        probe(cluster, "probe-step", NAMESPACE, step, STORE, MLFLOW, trainer, api),
        probe(cluster, "probe-launcher", NAMESPACE, OURS | {"app.kubernetes.io/component": "distill"}, STORE, api),
        probe(
            cluster, "probe-trainer", NAMESPACE, OURS | {"app.kubernetes.io/component": "trainer"}, STORE, trainer, api
        ),
        probe(cluster, "probe-unlabelled", NAMESPACE, {}, STORE, MLFLOW, trainer),
        probe(cluster, "probe-run", pipelines(), {"pipeline/runid": "probe"}, STORE, MLFLOW, trainer),
        probe(cluster, "probe-other", pipelines(), {}, STORE, MLFLOW, trainer),
    ]
    apply(pods)
    try:
        return {made["metadata"]["name"].removeprefix("probe-"): _said(made) for made in pods}
    finally:
        for made in (*pods, listener):
            where = made["metadata"]
            kubectl("-n", where["namespace"], "delete", "pod", where["name"], "--wait=false", "--grace-period=1")


def _said(made: Object) -> dict[str, bool]:
    where = made["metadata"]

    def ended() -> bool | None:
        phase = get("pod", where["name"], namespace=where["namespace"])["status"].get("phase")
        return phase in ("Succeeded", "Failed") or None

    until(f"pod {where['name']}", ended)
    found: dict[str, bool] = json.loads(log_of(where["name"], where["namespace"]).splitlines()[-1])
    return {
        address.partition(".")[0].rpartition(":")[0] or address.partition(".")[0]: ok for address, ok in found.items()
    }


def _answers(found: dict[str, bool]) -> dict[str, bool]:
    """With the trainer's address, which is a number, under its name."""
    return {name if name in ("seaweedfs", "mlflow", "kubernetes") else "trainer": ok for name, ok in found.items()}


@pytest.mark.parametrize(
    ("who", "what"),
    [
        ("step", {"seaweedfs": True, "mlflow": True, "trainer": False, "kubernetes": False}),
        ("launcher", {"seaweedfs": True, "kubernetes": True}),
        ("trainer", {"seaweedfs": True, "trainer": True, "kubernetes": False}),
        ("unlabelled", {"seaweedfs": False, "mlflow": False, "trainer": False}),
        ("run", {"seaweedfs": True, "mlflow": True, "trainer": False}),
        ("other", {"seaweedfs": False, "mlflow": False, "trainer": False}),
    ],
)
def test_pods_reach_what_they_need_and_nothing_else(
    reached: dict[str, dict[str, bool]], who: str, what: dict[str, bool]
) -> None:
    assert _answers(reached[who]) == what, "does this cluster's network plugin enforce policies?"
