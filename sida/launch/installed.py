"""What is on a cluster, looked at with the rights of whoever asks: namespaces, accounts, keys of Secrets, claims, quotas, nodes.

No value of a Secret leaves this file. Every method raises ApiRefused where looking is not allowed (status 403).
"""

from __future__ import annotations

from typing import Any

from sida.launch.cluster import Cluster, understood


class Installed(Cluster):
    """A Cluster that looks into other namespaces than its own, too."""

    def has_namespace(self, name: str) -> bool:
        """Return whether it is there."""
        return self._object_if_there(self._core.read_namespace, name, asked=name) is not None

    def has_account(self, namespace: str, name: str) -> bool:
        """Return whether a service account is there."""
        return (
            self._object_if_there(self._core.read_namespaced_service_account, name, namespace, asked=name) is not None
        )

    def secret_keys(self, namespace: str, name: str) -> set[str] | None:
        """The keys of a Secret; None when there is none."""
        secret = self._object_if_there(self._core.read_namespaced_secret, name, namespace, asked=name)
        return None if secret is None else set(secret.get("data") or {})

    def pod_labels(self, runtime: str) -> dict[str, str] | None:
        """The labels of a TrainingRuntime's pods in this namespace; None when there is none."""
        answer = self.runtime(runtime)
        if answer is None:
            return None
        with understood(self.host):
            (job, *_) = answer["spec"]["template"]["spec"]["replicatedJobs"]
            return dict(job["template"]["spec"]["template"].get("metadata", {}).get("labels") or {})

    def ready_pods(self, namespace: str, service: str) -> int:
        """Count the pods that answer for a Service."""
        from kubernetes import client

        call = client.DiscoveryV1Api(self._api).list_namespaced_endpoint_slice
        listed = self._read(call, namespace, label_selector=f"kubernetes.io/service-name={service}")
        pieces = self._listed(listed, ())
        ends = [end for piece in pieces for end in piece.get("endpoints") or ()]
        return sum((end.get("conditions") or {}).get("ready") is not False for end in ends)

    # -- room

    def claim(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a PersistentVolumeClaim; None when there is none."""
        return self._object_if_there(self._core.read_namespaced_persistent_volume_claim, name, namespace, asked=name)

    def binds_later(self, storage_class: str) -> bool:
        """Return whether claims of a class wait for their first pod."""
        from kubernetes import client

        found = self._object_if_there(
            client.StorageV1Api(self._api).read_storage_class, storage_class, asked=storage_class
        )
        return (found or {}).get("volumeBindingMode") == "WaitForFirstConsumer"

    def quotas(self, namespace: str) -> list[dict[str, Any]]:
        """Return the ResourceQuotas of a namespace."""
        return self._items(self._core.list_namespaced_resource_quota, namespace)

    def limit_ranges(self, namespace: str) -> list[dict[str, Any]]:
        """Return the LimitRanges of a namespace."""
        return self._items(self._core.list_namespaced_limit_range, namespace)

    def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes."""
        return self._items(self._core.list_node)

    def pods_that_take_room(self) -> list[dict[str, Any]]:
        """Return all pods of the cluster that have not ended."""
        ended = "status.phase!=Succeeded,status.phase!=Failed"
        return self._items(self._core.list_pod_for_all_namespaces, field_selector=ended)
