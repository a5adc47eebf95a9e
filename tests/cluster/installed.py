"""The overlay for kind as an installation of its own: its objects, as kubectl renders them, in namespaces that the tests made.

Nothing else on the cluster is touched: every object is in one of these namespaces, which are deleted in the end.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sida.launch.pod_state import waiting_of
from sida.launch.words import waiting_in_words
from tests.cluster.kubectl import Object, apply, get, kubectl
from tests.conftest import ROOT

OVERLAYS = ROOT / "manifests" / "overlays"
NAMESPACE = os.environ.get("SIDA_TEST_NAMESPACE", "sida-test")  # in place of sida
STORE_SECRET = f"{NAMESPACE}-store"  # of the profile, in both namespaces
ROLL_OUT_SECONDS = 420


@cache
def pipelines() -> str:
    """Where the pods of runs are: Kubeflow Pipelines' own namespace, or one in its place where no server of theirs answers."""
    health = "/api/v1/namespaces/kubeflow/services/ml-pipeline:8888/proxy/apis/v2beta1/healthz"
    return "kubeflow" if kubectl("get", "--raw", health, check=False).startswith("{") else f"{NAMESPACE}-pipelines"


@dataclass(frozen=True)
class Images:
    """What runs on the cluster, by digest; SeaweedFS's own unless another is named."""

    cpu: str
    mlflow: str
    seaweedfs: str = ""

    @classmethod
    def from_environment(cls) -> Images:
        """Those that SIDA_TEST_IMAGE and SIDA_TEST_MLFLOW_IMAGE name. Fails with what to do when they do not."""
        cpu, mlflow = os.environ.get("SIDA_TEST_IMAGE", ""), os.environ.get("SIDA_TEST_MLFLOW_IMAGE", "")
        if not (cpu and mlflow):
            pytest.fail(
                "set SIDA_TEST_IMAGE and SIDA_TEST_MLFLOW_IMAGE to the images of this checkout, NAME@sha256:DIGEST, in a registry "
                "that the cluster reaches: docs/install.md builds and pushes them"
            )
        return cls(cpu, mlflow, os.environ.get("SIDA_TEST_SEAWEEDFS_IMAGE", ""))


def render(overlay: str) -> list[Object]:
    """The overlay's objects as kubectl renders them."""
    return [item for item in yaml.safe_load_all(kubectl("kustomize", str(OVERLAYS / overlay))) if item]


def moved(value: Any, images: Images | None = None) -> Any:
    """An object, or a part of one, with namespaces and addresses of the tests' own, and the images that are to be tested."""
    if isinstance(value, dict):
        return {key: _name(key, inner) or moved(inner, images) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, images) for inner in value]
    if isinstance(value, str):
        text = re.sub(r"\b(seaweedfs|mlflow)\.sida\b", rf"\1.{NAMESPACE}", value)
        return _image(text, images) if images is not None else text
    return value


def _name(key: str, value: Any) -> str | None:
    """The tests' own namespace where a namespace is named."""
    if key in ("namespace", "kubernetes.io/metadata.name"):
        return {"sida": NAMESPACE, "kubeflow": pipelines()}.get(value)
    return None


def _image(text: str, images: Images) -> str:
    name, _, digest = text.partition("@sha256:")
    if digest and "/" in name:
        return images.mlflow if name.endswith("sida-mlflow") else images.cpu
    if images.seaweedfs and re.fullmatch(r"(docker\.io/)?chrislusf/seaweedfs:\S+", text):
        return images.seaweedfs
    return text


def objects_of(overlay: str, images: Images | None = None) -> list[Object]:
    """An overlay for the tests' namespace; the namespace itself comes first and has its labels."""
    items = [moved(item, images) for item in render(overlay)]
    for item in items:
        if item["kind"] == "Namespace":
            item["metadata"]["name"] = NAMESPACE
    return sorted(items, key=lambda item: item["kind"] != "Namespace")


def install(images: Images) -> tuple[str, str]:
    """Install the overlay for kind, and Argo's parts; (access key, secret key) of its store, made anew each time."""
    remove()
    keys = (f"test{secrets.token_hex(6)}", secrets.token_hex(20))
    items = objects_of("kind", images)
    there = {_title(item) for item in items}
    items += [item for item in objects_of("argo", images) if _title(item) not in there]
    apply([item for item in items if item["kind"] == "Namespace"])
    if pipelines() != "kubeflow":
        apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pipelines()}}])
        apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("pipeline-runner", pipelines())}])
    for name in ("sida-store", "mlflow-store", STORE_SECRET):
        apply([secret(name, NAMESPACE, keys)])
    apply([secret(STORE_SECRET, pipelines(), keys)])
    apply(items)
    for what in ("statefulset/seaweedfs", "deployment/mlflow"):
        _rolled_out(what)
    return keys


def _title(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _rolled_out(what: str) -> None:
    """Wait for it; the test fails with what its pods wait for."""
    command = ("-n", NAMESPACE, "rollout", "status", what, f"--timeout={ROLL_OUT_SECONDS}s")
    try:
        kubectl(*command, seconds=ROLL_OUT_SECONDS + 30)
    except AssertionError as error:
        waits = [found for pod in get("pods", namespace=NAMESPACE) if (found := waiting_of(pod)) is not None]
        raise AssertionError(f"{error}: {'; '.join(map(waiting_in_words, waits))}") from None


def remove() -> None:
    """Delete what the tests made, if it is there, and wait until it is gone."""
    made = [NAMESPACE] if pipelines() == "kubeflow" else [NAMESPACE, pipelines()]
    kubectl("delete", "namespace", *made, "--ignore-not-found", "--wait=false")
    kubectl("-n", pipelines(), "delete", "secret", STORE_SECRET, "--ignore-not-found", check=False)
    end = time.monotonic() + 240
    while kubectl("get", "namespace", *made, "--ignore-not-found", "-o", "name").strip():
        assert time.monotonic() < end, "the tests' namespaces are not gone after 4 minutes: look at their finalizers"
        time.sleep(1)


def secret(name: str, namespace: str, keys: tuple[str, str]) -> Object:
    """A Secret with the store's keys."""
    data = {"access-key": keys[0], "secret-key": keys[1]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _metadata(name, namespace), "stringData": data}


def _metadata(name: str, namespace: str) -> dict[str, str]:
    return {"name": name, "namespace": namespace}


def profile(folder: Path, images: Images, name: str = "mine.yaml", shipped: str = "laptop-kind", **changes: Any) -> str:
    """A shipped profile, moved to the tests' namespaces; its path. ``changes`` replace sections."""
    fields = moved(yaml.safe_load((ROOT / "profiles" / f"{shipped}.yaml").read_text(encoding="utf-8")))
    fields["images"]["cpu"] = images.cpu
    fields["secrets"][0]["name"] = STORE_SECRET
    fields["job_namespace"] = fields["trainjob"]["namespace"] = NAMESPACE
    fields |= changes
    if pipelines() != "kubeflow" and "kfp" in fields:
        fields["kfp"] |= {"namespace": pipelines(), "service_account": "pipeline-runner"}
    path = folder / name
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return str(path)
