"""Volumes of a real cluster in pods of ours: data that is only read, and a cache that two pods write at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.pod import StepPod
from sida.launch.pod import Cache, Pod, Volume, secret_key
from sida.launch.target import Target
from sida.launch.trainjob_manifest import train_job
from sida.stores import ObjectRef, open_store
from tests.cluster.conftest import STORE, Cluster
from tests.cluster.installed import NAMESPACE, STORE_SECRET
from tests.cluster.kubectl import Object, apply, get, kubectl, log_of, until
from tests.cluster.test_training import ended, told

CLAIMS = ("sida-test-data", "sida-test-cache")
# What both nodes do at once: write to the data, which must fail; fetch one object of the store through the cache, one write each.
NODE = """
import os, sys, time
from pathlib import Path
from sida.settings import settings
from sida.stores import ObjectRef, open_store
from sida.stores.objects import fetch_object
try:
    Path("/data/new").write_text("x")
    sys.exit("data can be written")
except OSError as error:
    print("data:", error.strerror)
print("data says:", Path("/data/hello").read_text())
store = open_store(settings().store)
path = fetch_object(store, ObjectRef("probe.bin", int(os.environ["SIZE"]), os.environ["SHA256"]))
print("fetched", path, path.stat().st_size, "by", os.getuid(), "of", path.stat().st_uid, path.stat().st_gid)
time.sleep(2)
"""
FILL = "from pathlib import Path; Path('/data/hello').write_text('hello'); import os; print(os.stat('/data'))"


def claim(name: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def claims(cluster: Cluster) -> Iterator[None]:
    """Two claims of the default class, the first with a file in it. One node mounts ReadWriteOnce in any number of pods."""
    if len(kubectl("get", "nodes", "-o", "name").split()) > 1:
        pytest.skip("a claim that is ReadWriteOnce reaches pods of one node: this cluster has several")
    classes = kubectl("get", "storageclasses", "-o", "jsonpath={.items[*].metadata.annotations}")
    if '"storageclass.kubernetes.io/is-default-class":"true"' not in classes.replace(" ", ""):
        pytest.skip("this cluster has no default StorageClass")
    try:
        apply([claim(name) for name in CLAIMS])
        _run("sida-test-fill", cluster, FILL, cache=Cache(claim=CLAIMS[1]), more=_writable(CLAIMS[0]))
        yield
    finally:
        kubectl("-n", NAMESPACE, "delete", "pvc", *CLAIMS, "--ignore-not-found", "--wait=false")


def _writable(name: str) -> Object:
    return {"name": "fill", "persistentVolumeClaim": {"claimName": name}}


def _run(name: str, cluster: Cluster, program: str, cache: Cache, more: Object) -> None:
    """A Job as rerun makes them, with one volume more, which it may write."""
    pod = StepPod(image=cluster.images.cpu, cpu="20m", memory="256Mi", run_as_user=10001, cache=cache).cached()
    spec = pod.as_job(["python", "-c", program], [], {})
    inner = spec["template"]["spec"]
    inner["volumes"].append(more)
    inner["containers"][0]["volumeMounts"].append({"name": more["name"], "mountPath": "/data"})
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
    apply([made])
    try:
        state = until(f"Job {name}", lambda: ended(name), 120)
        assert state == "Complete", told(name)
    finally:
        kubectl("-n", NAMESPACE, "delete", "job", name, "--wait=false")


@pytest.mark.usefixtures("claims")
def test_two_nodes_of_a_training_job_read_the_data_and_share_a_cache(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        if name.startswith(("SIDA_", "AWS_")):
            monkeypatch.setenv(name, value)
    content = b"cached" * 2_000_000
    sha256 = hashlib.sha256(content).hexdigest()
    open_store(STORE).put(ObjectRef("probe.bin", len(content), sha256).key, content)
    address = f"http://seaweedfs.{NAMESPACE}:9000"
    pod = Pod(
        image=cluster.images.cpu,
        env={
            "SIDA_STORE": STORE,
            "SIDA_S3_ENDPOINT": address,
            "SIZE": str(len(content)),
            "SHA256": sha256,
            "AWS_ACCESS_KEY_ID": secret_key(STORE_SECRET, "access-key"),
            "AWS_SECRET_ACCESS_KEY": secret_key(STORE_SECRET, "secret-key"),
        },
        service_account="sida-trainer",
        cpu="20m",
        memory="512Mi",
        run_as_user=10001,
        volumes=(Volume(claim=CLAIMS[0], path="/data"),),
        cache=Cache(claim=CLAIMS[1], size="1Gi"),
    ).cached()
    target = Target(namespace=NAMESPACE, runtime="sida-torch", pod=pod, nodes=2)
    made = train_job(target, name="sida-volumes", step="distill", run="r", folder="j", processes=2, threads=1)
    made["spec"]["trainer"] |= {"command": ["python", "-c", NODE], "args": []}
    try:
        apply([made])
        for pod_now in until("two pods that have ended", _ended, 240):
            said = log_of(pod_now["metadata"]["name"], NAMESPACE)
            assert pod_now["status"]["phase"] == "Succeeded", said
            assert "data: Read-only file system" in said and "data says: hello" in said
            assert f"fetched /tmp/cache/objects/{sha256}.bin {len(content)} by 10001 of 10001 10001" in said
    finally:
        kubectl("-n", NAMESPACE, "delete", "trainjob", "sida-volumes", "--ignore-not-found", check=False)


def _ended() -> list[Any] | None:
    pods = get("pods", "", "-l", "jobset.sigs.k8s.io/jobset-name=sida-volumes", namespace=NAMESPACE)
    over = [pod for pod in pods if pod["status"].get("phase") in ("Succeeded", "Failed")]
    return over if len(over) == 2 else None


def test_a_cache_of_the_pod_s_own_is_on_the_node_s_disk_and_limited(cluster: Cluster) -> None:
    program = "import os; s = os.statvfs('/tmp/cache'); open('/tmp/cache/x', 'w').write('x'); print(s.f_bsize)"
    _run("sida-test-own", cluster, program, Cache(size="100Mi"), {"name": "fill", "emptyDir": {}})


def test_doctor_sees_claims_quota_and_room(cluster: Cluster) -> None:
    said = cluster.pipeline("doctor", "--profile", cluster.profile)
    lines = {line.split()[1]: line for line in said.stdout.splitlines() if line and not line.startswith(" ")}
    assert lines["claims"].startswith("ok"), said.stdout
    assert lines["quota"].startswith("ok") and lines["room"].startswith(("ok", "bad")), said.stdout
