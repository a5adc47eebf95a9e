"""A pod of ours as a value: made from a profile, and rendered alike for Kubeflow Pipelines, for a Job and for a TrainJob.

It is one that Pod Security "restricted" takes. Quantities are Kubernetes' (``4``, ``64Gi``).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field

from sida.launch.quantity import amount
from sida.manifests import Part

Positive = Annotated[int, Field(ge=1)]
Source = dict[str, dict[str, str]]  # of a variable's value, as in a pod: {"secretKeyRef": {"name": ..., "key": ...}}
Variables = dict[str, str | Source]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
PLACES = {"HOME": "/tmp", "SIDA_RUNS": "/tmp/runs", "SIDA_CACHE": "/tmp/cache"}  # noqa: S108 (where the root is read-only)
NO_SIDECAR = {
    "sidecar.istio.io/inject": "false"
}  # label: Istio's would outlive the work, and be in the way of gloo and NCCL
SHM = ("shm", "/dev/shm")  # noqa: S108
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


class Volume(Part):
    """A PersistentVolumeClaim that pods only read."""

    claim: str
    path: str  # where the pod sees it
    folder: str = ""  # a part of the volume; empty: all of it


class Cache(Part):
    """Where a pod keeps copies of objects (SIDA_CACHE): in a claim that pods share, or in a volume of its own."""

    claim: str = ""
    size: str = ""  # of its own volume, or how much of a claim
    storage_class: str = ""  # of its own volume; empty: the node's disk

    def variables(self) -> dict[str, str]:
        """Return where the cache is, and its limit: a tenth below the size, for what cannot be evicted while it is in use."""
        limit = {"SIDA_CACHE_BYTES": str(int(amount(self.size) * 9 / 10))} if self.size else {}
        return {"SIDA_CACHE": PLACES["SIDA_CACHE"]} | limit

    def volume(self) -> dict[str, Any]:
        """Return it as a volume of a pod."""
        if self.claim:
            return {"persistentVolumeClaim": {"claimName": self.claim}}
        if not self.storage_class:
            return {"emptyDir": {"sizeLimit": self.size}}
        storage = {"resources": {"requests": {"storage": self.size}}, "storageClassName": self.storage_class}
        return {"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]} | storage}}}


class Pod(Part):
    """The pod around one container."""

    image: str = ""
    env: Variables = {}  # noqa: RUF012 (pydantic copies it)
    processes: Positive = 1
    threads: Positive = 1  # of each process
    cpu: str = ""  # requested; empty: processes times threads
    cpu_limit: str = ""  # empty: as many as are idle
    memory: str = ""  # requested, and the limit
    accelerator: str = ""  # a resource such as nvidia.com/gpu: one for each process
    shared_memory: str = ""  # size of /dev/shm
    volumes: tuple[Volume, ...] = ()
    cache: Cache | None = None  # None: in the pod's /tmp
    node_selector: dict[str, str] = {}  # noqa: RUF012
    tolerations: tuple[dict[str, Any], ...] = ()
    service_account: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    run_as_user: Positive = 1000
    timeout_seconds: Positive | None = None

    def cached(self) -> Self:
        """Return the pod with the variables of its cache."""
        return self if self.cache is None else self.model_copy(update={"env": self.env | self.cache.variables()})

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return requests, which the scheduler adds up, and limits, which the node enforces.

        CPU is limited only where a profile says so: a step that may take what is idle is done sooner, and a limit throttles it
        however idle the node is. Memory is limited to what is requested, for it cannot be taken back.
        """
        both: dict[str, Any] = {"memory": self.memory} if self.memory else {}
        if self.accelerator:
            both[self.accelerator] = self.processes
        limits = ({"cpu": self.cpu_limit} if self.cpu_limit else {}) | both
        requests = {"cpu": self.cpu or str(self.processes * self.threads)} | both
        return {"requests": requests} | ({"limits": limits} if limits else {})

    def around(self, container: dict[str, Any]) -> dict[str, Any]:
        """Return the pod's spec around ``container``, which gets its mounts and its security context."""
        volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
        mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
        if self.shared_memory:
            name, path = SHM
            volumes.append({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": self.shared_memory}})
            mounts.append({"name": name, "mountPath": path})
        for number, volume in enumerate(self.volumes):
            name, claim = f"data-{number}", {"claimName": volume.claim, "readOnly": True}
            volumes.append({"name": name, "persistentVolumeClaim": claim})
            folder = {"subPath": volume.folder} if volume.folder else {}
            mounts.append({"name": name, "mountPath": volume.path, "readOnly": True} | folder)
        if self.cache is not None:
            volumes.append({"name": "cache"} | self.cache.volume())
            mounts.append({"name": "cache", "mountPath": PLACES["SIDA_CACHE"]})
        given = {
            "serviceAccountName": self.service_account,
            "imagePullSecrets": [{"name": name} for name in self.image_pull_secrets],
            "nodeSelector": dict(self.node_selector),
            "tolerations": [dict(toleration) for toleration in self.tolerations],
        }
        return {
            "securityContext": security(self.run_as_user),
            "volumes": volumes,
            "containers": [container | {"securityContext": RESTRICTED, "volumeMounts": mounts}],
        } | {field: value for field, value in given.items() if value}


def security(user: int) -> dict[str, Any]:
    """Return the security context of a pod as Pod Security "restricted" wants it."""
    group = {
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
    }  # large volumes: not each time
    return {"runAsNonRoot": True, "runAsUser": user} | group | {"seccompProfile": {"type": "RuntimeDefault"}}


def environment(env: Variables) -> list[dict[str, Any]]:
    """Return variables as a container has them: first those with a value, then those with a source."""
    values = [{"name": name, "value": value} for name, value in env.items() if isinstance(value, str)]
    return values + [{"name": name, "valueFrom": at} for name, at in env.items() if not isinstance(at, str)]


def secret_key(secret: str, key: str) -> Source:
    """Return where a variable's value is found in a Kubernetes Secret."""
    return {"secretKeyRef": {"name": secret, "key": key}}
