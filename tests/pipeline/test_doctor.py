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
