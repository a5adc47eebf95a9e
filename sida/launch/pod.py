"""A pod of ours as a value: made from a profile, and rendered alike for Kubeflow Pipelines, for a Job and for a TrainJob.

It is one that Pod Security "restricted" takes. Quantities are Kubernetes' (``4``, ``64Gi``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

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
SHM = ("shm", "/dev/shm")  # noqa: S108
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


class Volume(Part):
    """A PersistentVolumeClaim that pods only read."""

    claim: str
    path: str  # where the pod sees it
    folder: str = ""  # a part of the volume; empty: all of it


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
    node_selector: dict[str, str] = {}  # noqa: RUF012
    tolerations: tuple[dict[str, Any], ...] = ()
    service_account: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    run_as_user: Positive = 1000
    timeout_seconds: Positive | None = None

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
    group = {"runAsGroup": user, "fsGroup": user}
    return {"runAsNonRoot": True, "runAsUser": user} | group | {"seccompProfile": {"type": "RuntimeDefault"}}


def environment(env: Variables) -> list[dict[str, Any]]:
    """Return variables as a container has them: first those with a value, then those with a source."""
    values = [{"name": name, "value": value} for name, value in env.items() if isinstance(value, str)]
    return values + [{"name": name, "valueFrom": at} for name, at in env.items() if not isinstance(at, str)]


def secret_key(secret: str, key: str) -> Source:
    """Return where a variable's value is found in a Kubernetes Secret."""
    return {"secretKeyRef": {"name": secret, "key": key}}
