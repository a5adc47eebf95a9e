"""The Pod Security Standards' profile "restricted", with what it takes over from "baseline".

The rules are those of kubernetes.io/docs/concepts/security/pod-security-standards as of Kubernetes 1.34. Windows pods aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = ("RuntimeDefault", "Localhost")
HANDLERS = ("httpGet", "tcpSocket")


def violations(pod: dict[str, Any]) -> list[str]:
    """What "restricted" refuses in a pod template."""
    annotations = pod.get("metadata", {}).get("annotations", {})
    return [*_pod(pod["spec"]), *_annotations(annotations), *_containers(pod["spec"])]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        for kind in set(volume) - {"name"}:
            if kind not in VOLUMES:
                yield f"volume {volume['name']} is a {kind}"
    context = spec.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _common("pod", context)


def _annotations(annotations: dict[str, str]) -> Iterator[str]:
    for key, value in annotations.items():
        allowed = value == "runtime/default" or value.startswith("localhost/")
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not allowed:
            yield f"{key} is {value}"


def _containers(spec: dict[str, Any]) -> Iterator[str]:
    pod = spec.get("securityContext", {})
    groups = ("initContainers", "containers", "ephemeralContainers")
    for container in (container for group in groups for container in spec.get(group, [])):
        name, context = container["name"], container.get("securityContext", {})
        yield from _common(name, context)
        if context.get("privileged"):
            yield f"{name} is privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation is not false"
        if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            yield f"{name}: runAsNonRoot is not true"
        if context.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
            yield f"{name}: no seccomp profile"
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            yield f"{name} does not drop all capabilities"
        if more := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name} adds {', '.join(sorted(more))}"
        if context.get("procMount", "Default") != "Default":
            yield f"{name}: procMount is {context['procMount']}"
        for port in container.get("ports", []):
            if port.get("hostPort"):
                yield f"{name} takes port {port['hostPort']} of its host"
        for where, handler in _handlers(container):
            if handler.get("host"):
                yield f"{name}: {where} goes to the host {handler['host']}"


def _common(name: str, context: dict[str, Any]) -> Iterator[str]:
    """What may stand in a pod's or a container's securityContext."""
    if context.get("runAsUser") == 0:
        yield f"{name} runs as user 0"
    if context.get("runAsNonRoot") is False:
        yield f"{name}: runAsNonRoot is false"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{name} is a process of its host"
    if (profile := context.get("seccompProfile")) is not None and profile.get("type") not in SECCOMP:
        yield f"{name}: seccomp profile {profile.get('type')}"
    if (profile := context.get("appArmorProfile")) is not None and profile.get("type") not in SECCOMP:
        yield f"{name}: AppArmor profile {profile.get('type')}"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{name}: SELinux options {selinux}"


def _handlers(container: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Probes and lifecycle hooks that open connections."""
    places = [(name, container.get(name, {})) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    places += [(name, container.get("lifecycle", {}).get(name, {})) for name in ("postStart", "preStop")]
    for where, probe in places:
        for kind in HANDLERS:
            if kind in probe:
                yield where, probe[kind]
