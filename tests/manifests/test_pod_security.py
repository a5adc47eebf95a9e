"""Every pod of the manifests is one that a "restricted" namespace takes, and the check is one that refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.manifests.pod_security import violations
from tests.manifests.render import OVERLAYS, containers, named, overlay, pods

FINE: dict[str, Any] = {
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [
            {
                "name": "step",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_restricted_has_a_read_only_root_and_a_number_for_a_user(name: str) -> None:
    found = list(pods(overlay(name)))
    assert len(found) >= 10
    for who, pod in found:
        assert violations(pod) == [], who
        assert pod["spec"]["securityContext"]["runAsUser"] >= 999, who
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, who


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_enforces_restricted(name: str) -> None:
    labels = named(overlay(name), "Namespace", "sida")["metadata"]["labels"]
    for mode in ("enforce", "warn", "audit"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def _container(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["containers"][0].update(changes)


def _context(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["containers"][0]["securityContext"].update(changes)


def _pod(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec.update(changes)


def _pod_context(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["securityContext"].update(changes)


def test_a_restricted_pod_is_accepted() -> None:
    assert violations(FINE) == []
    bind = {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}
    for change in (_context(capabilities=bind), _pod_context(sysctls=[{"name": "net.ipv4.tcp_syncookies"}])):
        pod = copy.deepcopy(FINE)
        change(pod["spec"])
        assert violations(pod) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_pod(hostNetwork=True), "hostNetwork"),
        (_pod(hostPID=True), "hostPID"),
        (_pod(hostIPC=True), "hostIPC"),
        (_pod(volumes=[{"name": "x", "hostPath": {"path": "/"}}]), "hostPath"),
        (_pod(volumes=[{"name": "x", "nfs": {"path": "/", "server": "s"}}]), "nfs"),
        (_pod_context(runAsNonRoot=False), "runAsNonRoot"),
        (_pod_context(runAsUser=0), "user 0"),
        (_pod_context(seccompProfile={"type": "Unconfined"}), "Unconfined"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "no seccomp"),
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
        (_pod_context(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
        (_pod_context(sysctls=[{"name": "kernel.msgmax"}]), "kernel.msgmax"),
        (_pod_context(seLinuxOptions={"type": "spc_t"}), "SELinux"),
        (_pod_context(seLinuxOptions={"user": "system_u"}), "SELinux"),
        (_context(privileged=True), "privileged"),
        (_context(allowPrivilegeEscalation=True), "allowPrivilegeEscalation"),
        (lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilege"),
        (_context(capabilities={"drop": ["NET_RAW"]}), "does not drop all"),
        (_context(capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]}), "adds IPC_LOCK"),
        (_context(runAsNonRoot=False), "runAsNonRoot"),
        (_context(procMount="Unmasked"), "procMount"),
        (_context(windowsOptions={"hostProcess": True}), "process of its host"),
        (_container(ports=[{"containerPort": 1, "hostPort": 1}]), "port 1 of its host"),
        (_container(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 1}}), "10.0.0.1"),
        (_container(lifecycle={"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 1}}}), "preStop"),
        (_pod(initContainers=[{"name": "first", "securityContext": {}}]), "first does not drop"),
        (_pod(ephemeralContainers=[{"name": "debug", "securityContext": {"privileged": True}}]), "debug is priv"),
    ],
)
def test_what_restricted_forbids_is_found(change: Callable[[dict[str, Any]], None], said: str) -> None:
    pod = copy.deepcopy(FINE)
    change(pod["spec"])
    assert any(said in violation for violation in violations(pod)), violations(pod)
