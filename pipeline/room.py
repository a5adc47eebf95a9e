"""What a run's pods will ask of a cluster, and whether claims, quotas and nodes have it: looked at before anything is submitted.

The amounts are those that ``compile`` puts into pods. What is there but taken is said, and is no fault: others end, queues wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pipeline.cluster_checks import Check, looked, runs_as
from pipeline.pod import pod_of
from pipeline.profile import Profile
from sida.launch.cluster import ApiRefused
from sida.launch.installed import Installed
from sida.launch.pod import Pod
from sida.launch.quantity import amount
from sida.launch.target import parse_target
from sida.recipe import Recipe
from sida.registry import STEPS

# Of the container that Kubeflow Pipelines adds to each pod.
KFP_EXTRA = {"cpu": Decimal("0.1"), "memory": Decimal(256 * 2**20)}
Amounts = dict[str, Decimal]


@dataclass(frozen=True)
class Group:
    """Pods of a kind that are there at the same time: a step's own, or the nodes of its TrainJob."""

    step: str
    namespace: str
    count: int
    pod: Pod
    of_kfp: bool = False

    @property
    def requests(self) -> dict[str, Decimal]:
        """What one pod requests."""
        asked = {name: amount(value) for name, value in self.pod.resources()["requests"].items()}
        if self.of_kfp:
            asked = {name: asked.get(name, Decimal(0)) + KFP_EXTRA.get(name, Decimal(0)) for name in asked | KFP_EXTRA}
        return asked

    @property
    def title(self) -> str:
        """How messages call it."""
        one = f"{self.step}'s pod" if self.count == 1 else f"{self.count} pods of {self.step}"
        return f"{one} ({', '.join(f'{name} {_shown(name, value)}' for name, value in self.requests.items())})"


def groups_of(profile: Profile, recipe: Recipe) -> list[list[Group]]:
    """Return each step's groups of pods. Raises UserError as compiling does."""
    found = []
    for step in STEPS:
        pod = pod_of(step, recipe, profile, "the profile", allow_tags=True)
        groups = [Group(step, runs_as(profile)[0], 1, pod, of_kfp=True)]
        if pod.launches:
            target = parse_target(str(pod.env["SIDA_TRAINJOB"]))
            execution = recipe.execution
            share = {"processes": target.per_node(execution.processes), "threads": execution.threads}
            groups.append(Group(step, target.namespace, target.nodes, target.pod.model_copy(update=share)))
        found.append(groups)
    return found


# -- claims


def claims(profile: Profile, steps: list[list[Group]], cluster: Installed | Check) -> Check:
    """Check that claims exist where pods mount them, are or will be bound, and may be mounted by as many pods."""
    mounting: Counter[tuple[str, str]] = Counter()
    written: set[tuple[str, str]] = set()
    for group in (group for groups in steps for group in groups):
        named = [volume.claim for volume in group.pod.volumes]
        if group.pod.cache is not None and group.pod.cache.claim:
            named.append(group.pod.cache.claim)
            written.add((group.namespace, group.pod.cache.claim))
        for name in named:
            mounting[group.namespace, name] += group.count
            if profile.job_namespace:  # of reruns
                mounting[profile.job_namespace, name] += 0

    def wrong(seen: Installed, pair: tuple[str, str]) -> str:
        if (claim := seen.claim(*pair)) is None:
            return "is missing"
        phase, spec = claim["status"]["phase"], claim["spec"]
        if phase == "Lost":
            return "has lost its volume"
        if phase == "Pending" and not seen.binds_later(spec.get("storageClassName", "")):
            return "is not bound"
        modes = set(claim["status"].get("accessModes") or spec["accessModes"])
        if pair in written and modes == {"ReadOnlyMany"}:
            return "is ReadOnlyMany, and the cache writes there"
        many = mounting[pair] > 1
        if many and (modes == {"ReadWriteOncePod"} or (modes == {"ReadWriteOnce"} and len(seen.nodes()) > 1)):
            return f"is {min(modes)}, but up to {mounting[pair]} pods mount it: ask for ReadOnlyMany or ReadWriteMany"
        return ""

    return looked("claims", cluster, {pair: "/".join(pair) for pair in mounting}, wrong)


# -- quota


def quota(steps: list[list[Group]], cluster: Installed | Check) -> Check:
    """Check the largest step of each namespace against the namespace's ResourceQuotas."""
    remarks: list[str] = []
    namespaces = dict.fromkeys(group.namespace for groups in steps for group in groups)

    def wrong(seen: Installed, namespace: str) -> str:
        quotas = [item for item in seen.quotas(namespace) if not item["spec"].keys() & {"scopes", "scopeSelector"}]
        defaults = _defaults(seen.limit_ranges(namespace)) if quotas else set()
        for item in quotas:
            for key, hard in item["spec"]["hard"].items():
                asked, step = max((_counted(key, groups, namespace, defaults), groups[0].step) for groups in steps)
                used = amount(item.get("status", {}).get("used", {}).get(key, 0))
                if asked.is_infinite():
                    return f"counts {key}, which {step} does not say: give cpu_limit in the profile, or a LimitRange"
                ask = f"{step} asks for {_shown(key, asked)} of {key}"
                if asked > amount(hard):
                    return f"has {hard} by quota {item['metadata']['name']}, and {ask}"
                if asked > amount(hard) - used:
                    remarks.append(
                        f"{ask} in {namespace}, where {_shown(key, amount(hard) - used)} of {hard} are left now"
                    )
        return ""

    check = looked("quota", cluster, {name: f"namespace {name}" for name in namespaces}, wrong)
    return _with(check, remarks)


def _defaults(ranges: list[dict[str, Any]]) -> set[str]:
    """Return the limits that containers get without saying any."""
    limits = [limit for item in ranges for limit in item["spec"]["limits"] if limit["type"] == "Container"]
    return {name for limit in limits for name in limit.get("default", {})}


def _counted(key: str, groups: list[Group], namespace: str, defaults: set[str]) -> Decimal:
    """Return how much of a quota's ``key`` a step counts for; infinite: of what has to be said and is not."""
    total = Decimal(0)
    kind, _, name = key.rpartition(".") if key.startswith(("requests.", "limits.")) else ("requests", "", key)
    if "/" in key:  # requests.nvidia.com/gpu
        kind, name = key.split(".", 1)
    for group in (group for group in groups if group.namespace == namespace):
        if key in ("pods", "count/pods"):
            total += group.count
        elif key == "count/trainjobs.trainer.kubeflow.org":
            total += not group.of_kfp
        elif kind == "limits":
            limits = group.pod.resources().get("limits", {})
            if name in ("cpu", "memory") and name not in limits and name not in defaults:
                return Decimal("Infinity")
            total += group.count * amount(limits.get(name, 0))
        else:
            total += group.count * group.requests.get(name, Decimal(0))
    return total


# -- nodes


def room(steps: list[list[Group]], cluster: Installed | Check) -> Check:
    """Check that nodes could hold each step with its TrainJob: all of its pods at once, by requests, selectors and taints."""
    remarks: list[str] = []

    def wrong(seen: Installed, _: str) -> str:
        nodes = [node for node in seen.nodes() if not node["spec"].get("unschedulable")]
        try:
            taken = _taken(seen.pods_that_take_room())
        except ApiRefused:
            taken = {}
            remarks.append("what other pods take now may not be looked at")
        for groups in steps:
            if (group := _left_over(groups, nodes, {})) is not None:
                admitting = sum(_admits(node, group.pod) for node in nodes)
                which = f"its selector and tolerations admit {admitting} of {len(nodes)}"
                return f"have no room for {group.title}, even when empty; {which}"
            if (group := _left_over(groups, nodes, taken)) is not None:
                remarks.append(f"no room just now for {group.title}")
        return ""

    check = looked("room", cluster, {"": "nodes"}, wrong)
    if check.state == "ok":
        largest = max(
            (group for groups in steps for group in groups),
            key=lambda group: group.count * group.requests.get("memory", 0),
        )
        check = replace(check, found=f"for {largest.title}, and for every other step")
    return _with(check, remarks)


def _with(check: Check, remarks: list[str]) -> Check:
    return replace(check, found="; ".join([check.found, *remarks]))


def _shown(name: str, value: Decimal) -> str:
    return f"{value / 2**30:.4g}Gi" if name.endswith("memory") else f"{value:g}"


def _taken(pods: Iterable[dict[str, Any]]) -> dict[str, Amounts]:
    """Return what pods request of each node."""
    taken: dict[str, Amounts] = {}
    for pod in pods:
        on = taken.setdefault(pod["spec"].get("nodeName", ""), {})
        on["pods"] = on.get("pods", Decimal(0)) + 1
        for container in pod["spec"]["containers"]:
            for name, value in container.get("resources", {}).get("requests", {}).items():
                on[name] = on.get(name, Decimal(0)) + amount(value)
    return taken


def _left_over(groups: list[Group], nodes: list[dict[str, Any]], taken: dict[str, Amounts]) -> Group | None:
    """Place pods, the largest first, each on the first node with room; return the group of the first that finds none."""
    free = {}
    for node in nodes:
        name = node["metadata"]["name"]
        used = taken.get(name, {})
        free[name] = {what: amount(much) - used.get(what, 0) for what, much in node["status"]["allocatable"].items()}
    for group in sorted(groups, key=lambda group: group.requests.get("memory", 0), reverse=True):
        asked = group.requests | {"pods": Decimal(1)}
        for _ in range(group.count):
            for node in nodes:
                left = free[node["metadata"]["name"]]
                if _admits(node, group.pod) and all(left.get(what, 0) >= much for what, much in asked.items()):
                    left |= {what: left[what] - much for what, much in asked.items()}
                    break
            else:
                return group
    return None


def _admits(node: dict[str, Any], pod: Pod) -> bool:
    """Return whether selector and taints let the pod onto a node."""
    labels = node["metadata"].get("labels", {})
    taints = [taint for taint in node["spec"].get("taints", ()) if taint["effect"] != "PreferNoSchedule"]
    return pod.node_selector.items() <= labels.items() and all(
        any(_tolerates(toleration, taint) for toleration in pod.tolerations) for taint in taints
    )


def _tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    if toleration.get("effect") not in (None, taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, taint["key"])
    return (toleration.get("key"), toleration.get("value") or "") == (taint["key"], taint.get("value") or "")
