"""``sida doctor``: what is wrong is named, with what it prevents and how to mend it; the rest is still checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import CHECKS
from tests.launch.kube_server import Kube
from tests.launch.kube_server import serve as serve_kube
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp
from tests.pipeline.test_trainjobs import LAUNCHED
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY


@pytest.fixture
def nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is configured."""
    monkeypatch.setenv("KUBECONFIG", str(place / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def told(command: Command, *arguments: str) -> tuple[int, dict[str, Any]]:
    said = command("doctor", "--json", *arguments)
    assert said.err == ""
    return said.status, {check["name"]: check for check in json.loads(said.out)["checks"]}


@pytest.mark.usefixtures("nowhere")
def test_a_laptop_without_cluster_is_ready_and_nothing_is_left_in_the_store(command: Command) -> None:
    status, checks = told(command)
    assert list(checks) == list(CHECKS)
    assert {name for name, check in checks.items() if check["state"] == "bad"} <= {"disk"}
    assert status == (checks["disk"]["state"] == "bad")
    assert checks["store"]["state"] == "ok"
    assert checks["kubernetes"]["state"] == checks["trainer"]["state"] == checks["engine"]["state"] == "off"
    assert not [file for file in (command.place / "store").rglob("doctor/*")]
    said = command("doctor")
    assert "ok      python" in said.out
    assert said.out.splitlines()[-1].endswith("runs on this machine")


@pytest.mark.usefixtures("nowhere")
def test_a_store_that_cannot_be_written_is_bad_and_the_other_checks_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.place / "file").write_text("")
    monkeypatch.setenv("SIDA_STORE", f"file://{command.place}/file/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:1")
    status, checks = told(command)
    assert status == 1
    for name in ("store", "mlflow"):
        assert checks[name]["state"] == "bad"
        assert checks[name]["prevents"]
        assert checks[name]["mend"]
    assert "hunter2" not in json.dumps(checks)
    assert checks["python"]["state"] == "ok"


@pytest.mark.usefixtures("nowhere")
def test_a_profile_s_kubeflow_is_asked(command: Command, kfp: Kfp) -> None:
    status, checks = told(command, "--profile", command.profile())
    assert checks["engine"]["state"] == "ok", checks
    command.host = "http://127.0.0.1:1"
    status, checks = told(command, "--profile", command.profile(name="other.yaml"))
    assert (status, checks["engine"]["state"]) == (1, "bad")
    assert "kfp.host" in checks["engine"]["mend"]


NODES, PODS = "/api/v1/nodes", "/api/v1/pods"


def node(name: str, **amounts: str) -> dict[str, Any]:
    """A node of eight cores."""
    allocatable = {"cpu": "7900m", "memory": "31000000Ki", "pods": "110"} | amounts
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    return {"metadata": metadata, "spec": {}, "status": {"allocatable": allocatable}}


def gpu_node(name: str) -> dict[str, Any]:
    """One that the tests' profile asks for distill."""
    made = node(name, memory="128Gi", **{"nvidia.com/gpu": "1"})
    made["metadata"]["labels"]["pool"] = "gpu"
    made["spec"] = {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}
    return made


def pod_on(name: str, phase: str = "Running", **amounts: str) -> dict[str, Any]:
    """A pod that takes room of a node."""
    spec = {"nodeName": name, "containers": [{"resources": {"requests": amounts}}]}
    return {"metadata": {"name": "x"}, "spec": spec, "status": {"phase": phase}}


RUNTIME = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/work/trainingruntimes/sida-torch"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/work/endpointslices"
ENV = ("env: {", "env: {SIDA_S3_ENDPOINT: 'http://store.work:9000', MLFLOW_TRACKING_URI: 'http://mlflow.work:5000', ")


@pytest.fixture
def kube(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    """A cluster with all that the tests' profile with TrainJobs asks for."""
    for variable in ("SIDA_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with serve_kube(place) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        core = "/api/v1/namespaces"
        names = [
            *(f"{core}/{name}" for name in ("kubeflow", "work")),
            f"{core}/kubeflow/serviceaccounts/pipeline-runner",
        ]
        names += [f"{core}/work/serviceaccounts/{name}" for name in ("runner", "trainer")]
        memory.plain = {name: {"metadata": {"name": name.rpartition("/")[2]}} for name in names}
        data = {"data": {"access-key": "c2VjcmV0bHk=", "secret-key": "c2VjcmV0bHk="}}
        for namespace in ("kubeflow", "work"):
            memory.plain |= {f"{core}/{namespace}/secrets/{name}": data for name in ("sida-store", "registry")}
        job = {"template": {"spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/component": "trainer"}}}}}}
        memory.plain[RUNTIME] = {"spec": {"template": {"spec": {"replicatedJobs": [job]}}}}
        for namespace in ("kubeflow", "work"):
            memory.plain |= {f"{core}/{namespace}/{kind}": {"items": []} for kind in ("resourcequotas", "limitranges")}
        memory.plain |= {NODES: {"items": [node("cpus"), gpu_node("gpus-1"), gpu_node("gpus-2")]}, PODS: {"items": []}}
        ready = [{"conditions": {"ready": True}}]
        memory.plain[SLICES] = {
            "items": [
                {"metadata": {"labels": {"kubernetes.io/service-name": name}}, "endpoints": ready}
                for name in ("store", "mlflow")
            ]
        }
        yield memory


def test_with_all_in_place_the_last_line_is_about_the_profile_s_cluster(
    command: Command, kfp: Kfp, kube: Kube, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    mine = command.profile(*LAUNCHED, ENV, ("s3://bucket", f"s3://{BUCKET}"))
    said = command("doctor", "--profile", mine)
    assert said.out.splitlines()[-1] == f"ready for runs on the cluster of {mine}", said.out
    for line in (
        "work/sida-store",
        "kubeflow/pipeline-runner",
        "work/trainer",
        "sida-torch is in work",
        "images.cpu, images.cuda",
        "ok      room        for 2 pods of distill (cpu 1, memory 64Gi, nvidia.com/gpu 1), and for every other step",
        "ok      quota       namespace kubeflow, namespace work",
        "ok      claims      the profile names none",
    ):
        assert line in said.out


def test_store_and_mlflow_that_only_pods_reach_are_no_fault_while_pods_answer_for_them(
    command: Command, kfp: Kfp, kube: Kube
) -> None:
    status, checks = told(command, "--profile", command.profile(*LAUNCHED, ENV))
    for name in ("store", "mlflow"):
        assert checks[name]["state"] == "unseen"
        assert "1 pod of the cluster answers for" in checks[name]["found"]
    assert status == 0
    assert checks["store"]["mend"] == (
        "kubectl -n work port-forward svc/store 9000:9000, and SIDA_S3_ENDPOINT=http://localhost:9000"
    )
    kube.plain[SLICES]["items"][0]["endpoints"] = [{"conditions": {"ready": False}}]
    status, checks = told(command, "--profile", command.profile(*LAUNCHED, ENV))
    assert (status, checks["store"]["state"], checks["mlflow"]["state"]) == (1, "bad", "unseen")
    assert checks["store"]["found"] == "no pod answers for store in namespace work"


@pytest.mark.parametrize(
    ("gone", "name", "words"),
    [
        ("/api/v1/namespaces/work", "namespaces", "namespace work is missing"),
        ("/api/v1/namespaces/work/serviceaccounts/runner", "accounts", "work/runner is missing"),
        ("/api/v1/namespaces/kubeflow/secrets/sida-store", "secrets", "kubeflow/sida-store is missing"),
        ("/api/v1/namespaces/work/secrets/registry", "secrets", "work/registry is missing"),
        (RUNTIME, "trainer", "no TrainingRuntime sida-torch in work"),
    ],
)
def test_what_is_missing_on_the_cluster_is_named_and_what_may_not_be_looked_at_is_said(
    command: Command, kfp: Kfp, kube: Kube, gone: str, name: str, words: str
) -> None:
    mine = command.profile(*LAUNCHED, ENV)
    kube.hidden.add(gone)
    status, checks = told(command, "--profile", mine)
    assert (status, checks[name]["state"]) == (0, "unseen")
    assert "could not look" in checks[name]["found"]
    last = command("doctor", "--profile", mine).out.splitlines()[-1]
    assert last.endswith(f"not looked at: store, mlflow, {name}")
    kube.hidden.clear()
    del kube.plain[gone]
    kube.runtimes -= {gone.rpartition("/")[2]}
    status, checks = told(command, "--profile", mine)
    assert (status, checks[name]["state"]) == (1, "bad")
    assert words in checks[name]["found"]
    assert checks[name]["prevents"] and checks[name]["mend"]
    last = command("doctor", "--profile", mine).out.splitlines()[-1]
    assert last.startswith(f"not ready for runs on the cluster of {mine}:") and last.endswith(f"bad: {name}")


def test_a_key_that_a_secret_lacks_and_an_image_without_a_digest_are_named_and_no_value_is_shown(
    command: Command, kfp: Kfp, kube: Kube
) -> None:
    kube.plain["/api/v1/namespaces/work/secrets/sida-store"] = {"data": {"access-key": "c2VjcmV0bHk="}}
    mine = command.profile(*LAUNCHED, ENV, ("registry.test/sida@sha256:" + "1" * 64, "registry.test/sida:1"))
    status, checks = told(command, "--profile", mine)
    assert checks["secrets"]["found"] == "work/sida-store has no key secret-key"
    assert checks["images"]["found"] == "images.cpu 'registry.test/sida:1' has no digest"
    assert (status, "c2VjcmV0" in json.dumps(checks)) == (1, False)


def test_a_runtime_whose_pods_no_network_policy_knows_is_bad(command: Command, kfp: Kfp, kube: Kube) -> None:
    (job,) = kube.plain[RUNTIME]["spec"]["template"]["spec"]["replicatedJobs"]
    job["template"]["spec"]["template"] = {"spec": {}}
    _, checks = told(command, "--profile", command.profile(*LAUNCHED, ENV))
    assert checks["trainer"]["state"] == "bad"
    assert "lack the labels" in checks["trainer"]["found"] and "sida runtime" in checks["trainer"]["mend"]


@pytest.mark.usefixtures("nowhere")
def test_without_access_to_the_cluster_that_is_said_and_what_the_profile_tells_is_checked(
    command: Command, kfp: Kfp
) -> None:
    _, checks = told(command, "--profile", command.profile())
    for name in ("namespaces", "accounts", "secrets"):
        assert checks[name]["state"] == "unseen"
        assert "no Kubernetes cluster is configured here" in checks[name]["found"]
    assert checks["images"]["state"] == "ok"


def test_a_profile_that_is_not_there_is_one_line(command: Command) -> None:
    assert "nothing" in command("doctor", "--profile", "./nothing.yaml").mistake()
    assert "--profile" in command("doctor", "--recipe", "digits").mistake()


QUOTA = "/api/v1/namespaces/{}/resourcequotas"


def quota(hard: dict[str, str], used: dict[str, str]) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": "small"}, "spec": {"hard": hard}, "status": {"used": used}}]}


@pytest.mark.parametrize(
    ("namespace", "hard", "used", "state", "words"),
    [
        ("work", {"requests.memory": "100Gi"}, {}, "bad", "work has 100Gi by quota small, and distill asks for 128Gi"),
        ("work", {"requests.memory": "200Gi"}, {"requests.memory": "80Gi"}, "ok", "where 120Gi of 200Gi are left now"),
        ("work", {"requests.nvidia.com/gpu": "1"}, {}, "bad", "distill asks for 2 of requests.nvidia.com/gpu"),
        ("work", {"pods": "1", "limits.memory": "1Ti"}, {}, "bad", "distill asks for 2 of pods"),
        ("work", {"count/trainjobs.trainer.kubeflow.org": "1"}, {}, "ok", "namespace work"),
        ("work", {"limits.cpu": "9"}, {}, "bad", "counts limits.cpu, which distill does not say: give cpu_limit"),
        ("kubeflow", {"requests.memory": "1Gi"}, {}, "bad", "asks for 2.25Gi of requests.memory"),
        ("kubeflow", {"requests.memory": "3Gi", "requests.cpu": "8"}, {}, "ok", "namespace kubeflow"),
    ],
)
def test_a_quota_is_compared_with_what_the_largest_step_asks_for(
    command: Command,
    kfp: Kfp,
    kube: Kube,
    namespace: str,
    hard: dict[str, str],
    used: dict[str, str],
    state: str,
    words: str,
) -> None:
    kube.plain[QUOTA.format(namespace)] = quota(hard, used)
    _, checks = told(command, "--profile", command.profile(*LAUNCHED, ENV))
    assert checks["quota"]["state"] == state
    assert words in checks["quota"]["found"]
    ranges = {
        "items": [{"metadata": {"name": "sida"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}}]
    }
    kube.plain["/api/v1/namespaces/work/limitranges"] = ranges
    if "limits.cpu" in hard:
        assert told(command, "--profile", command.profile(*LAUNCHED, ENV))[1]["quota"]["state"] == "ok"


def test_room_is_looked_for_with_the_pods_amounts_selectors_and_tolerations(
    command: Command, kfp: Kfp, kube: Kube
) -> None:
    mine = command.profile(*LAUNCHED, ENV)

    def looked(*more: str) -> tuple[str, str]:
        room = told(command, "--profile", mine, *more)[1]["room"]
        return room["state"], room["found"]

    kube.plain[PODS]["items"] = [
        pod_on("gpus-1", **{"nvidia.com/gpu": "1"}),
        pod_on("gpus-2", "Succeeded", memory="128Gi"),
    ]
    state, found = looked()
    assert state == "ok" and found.endswith(
        "; no room just now for 2 pods of distill (cpu 1, memory 64Gi, nvidia.com/gpu 1)"
    )
    kube.hidden.add(PODS)
    assert looked()[1].endswith("; what other pods take now may not be looked at")
    kube.plain[NODES]["items"][2]["spec"]["unschedulable"] = True
    state, found = looked()
    assert (state, found.rpartition("; ")[0]) == (
        "bad",
        "nodes have no room for 2 pods of distill (cpu 1, memory 64Gi, nvidia.com/gpu 1), even when empty; "
        "its selector and tolerations admit 1 of 2",
    )
    kube.plain[NODES]["items"][2]["spec"] = {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}
    assert "admit 1 of 3" in looked()[1]
    kube.plain[NODES]["items"][2]["spec"] = {}
    assert looked()[0] == "ok"
    assert "2 pods of distill (cpu 2, memory 64Gi, nvidia.com/gpu 2)" in looked("--recipe", "cifar10-uncond")[1]
    kube.hidden.add(NODES)
    assert looked()[0] == "unseen"


CLAIM = "/api/v1/namespaces/{}/persistentvolumeclaims/{}"


def claim(phase: str = "Bound", mode: str = "ReadWriteMany") -> dict[str, Any]:
    return {"spec": {"accessModes": [mode], "storageClassName": "standard"}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "ok", "kubeflow/cache, work/cache, work/sets"),
        ({("work", "sets"): None}, "bad", "work/sets is missing"),
        ({("work", "sets"): claim("Lost")}, "bad", "work/sets has lost its volume"),
        ({("work", "sets"): claim("Pending")}, "ok", "work/sets"),
        ({("work", "sets"): claim("Bound", "ReadOnlyMany")}, "ok", "work/sets"),
        (
            {("work", "cache"): claim("Bound", "ReadOnlyMany")},
            "bad",
            "work/cache is ReadOnlyMany, and the cache writes",
        ),
        ({("work", "cache"): claim("Bound", "ReadWriteOnce")}, "bad", "work/cache is ReadWriteOnce, but up to 2 pods"),
        ({("work", "sets"): claim("Bound", "ReadWriteOncePod")}, "bad", "ask for ReadOnlyMany or ReadWriteMany"),
    ],
)
def test_claims_are_there_bound_and_for_as_many_pods_as_mount_them(
    command: Command, kfp: Kfp, kube: Kube, changes: dict[tuple[str, str], Any], state: str, words: str
) -> None:
    given = {(space, name): claim() for space in ("kubeflow", "work") for name in ("cache", "sets")} | changes
    kube.plain |= {CLAIM.format(*where): made for where, made in given.items() if made is not None}
    later = {"volumeBindingMode": "WaitForFirstConsumer"}
    kube.plain["/apis/storage.k8s.io/v1/storageclasses/standard"] = later
    files = ("  distill:\n", "  distill:\n    volumes: [{claim: sets, path: /data}]\n")
    mine = command.profile(*LAUNCHED, ENV, files, ("  memory: 2Gi", "  memory: 2Gi\n  cache: {claim: cache}"))
    _, checks = told(command, "--profile", mine)
    assert checks["claims"]["state"] == state, checks["claims"]
    assert words in checks["claims"]["found"]
    later["volumeBindingMode"] = "Immediate"
    if ("work", "sets") in changes and changes["work", "sets"] == claim("Pending"):
        assert told(command, "--profile", mine)[1]["claims"]["found"] == "work/sets is not bound"
