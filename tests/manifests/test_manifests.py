"""What kubectl renders of the overlays: valid objects, no dangling reference, nothing that an administrator would refuse."""

from __future__ import annotations

import re
import warnings
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.commands.runtime import objects
from pipeline.profile import LAUNCHED
from pipeline.rerun import to_yaml
from sida.launch import trainjob_manifest
from sida.launch.target import parse_target
from sida.recipe.texts import refuse_secret
from tests.conftest import ROOT
from tests.launch import crds
from tests.manifests.pod_security import violations
from tests.manifests.render import (
    MANIFESTS,
    OVERLAYS,
    Object,
    containers,
    leaves,
    named,
    of_kind,
    overlay,
    pods,
    render,
    title,
)
from tests.manifests.test_steps import profile_of

# What clusters of these names have, without us.
OF_THE_CLUSTER = {("ServiceAccount", "pipeline-runner", "kubeflow"), ("Group", "sida-operators", None)}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


def invalid(item: Object) -> list[str]:
    """What is wrong with an object: core kinds and those of Trainer and Kueue strictly, unknown fields refused."""
    group = item["apiVersion"].partition("/")[0]
    if group in ("trainer.kubeflow.org", "kueue.x-k8s.io"):
        return crds.errors(item)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jsonschema's, about the validator's own way of using it
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{title(item)}: {'.'.join(map(str, error.path))}: {error.message[:300]}"]
    return []


@each_overlay
def test_every_object_is_valid(name: str) -> None:
    assert [line for item in overlay(name) for line in invalid(item)] == []


@each_overlay
@pytest.mark.parametrize("kind", ["Deployment", "Role", "NetworkPolicy", "CronJob", "TrainingRuntime", "ResourceQuota"])
def test_a_field_that_does_not_exist_is_found(name: str, kind: str) -> None:
    item = of_kind(overlay(name), kind)[0]
    wrong = {**item, "spec": {**item["spec"], "replicsa": 1}} if "spec" in item else {**item, "ruels": []}
    assert invalid(item) == []
    assert len(invalid(wrong)) == 1


@each_overlay
def test_no_two_objects_have_one_name_and_each_is_in_the_namespace(name: str) -> None:
    seen = [title(item) for item in overlay(name)]
    assert len(seen) == len(set(seen))
    for item in overlay(name):
        wanted = None if item["kind"] == "Namespace" else "sida"
        assert item["metadata"].get("namespace") == wanted, title(item)


# -- references


def references(item: Object) -> set[tuple[str, str]]:
    """(kind, name) of what an object needs in its namespace."""
    found: set[tuple[str, str]] = set()
    for _, pod in pods([item]):
        spec = pod["spec"]
        found.add(("ServiceAccount", spec.get("serviceAccountName", "default")))
        found |= {("Secret", secret["name"]) for secret in spec.get("imagePullSecrets", [])}
        for volume in spec.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                found.add(("PersistentVolumeClaim", claim["claimName"]))
            if files := volume.get("configMap"):
                found.add(("ConfigMap", files["name"]))
            if files := volume.get("secret"):
                found.add(("Secret", files["secretName"]))
        for container in containers(pod):
            for source in (variable.get("valueFrom", {}) for variable in container.get("env", [])):
                found |= {("Secret", key["name"]) for key in [source.get("secretKeyRef")] if key}
                found |= {("ConfigMap", key["name"]) for key in [source.get("configMapKeyRef")] if key}
    if item["kind"] == "RoleBinding":
        found.add((item["roleRef"]["kind"], item["roleRef"]["name"]))
    if item["kind"] == "StatefulSet":
        found.add(("Service", item["spec"]["serviceName"]))
    if item["kind"] == "LocalQueue":
        found.add(("ClusterQueue", item["spec"]["clusterQueue"]))
    return found


def secret_keys(objects: list[Object]) -> set[tuple[str, str]]:
    """(Secret, key) that some container reads."""
    return {
        (key["name"], key["key"])
        for _, pod in pods(objects)
        for container in containers(pod)
        for variable in container.get("env", [])
        if (key := variable.get("valueFrom", {}).get("secretKeyRef"))
    }


def documented_secrets() -> dict[str, set[str]]:
    """Secret -> keys, as docs/secrets.md says how to create them."""
    text = (ROOT / "docs" / "secrets.md").read_text()
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \| ([^|]+) \|", text)
    return {name: set(re.findall("`([a-z-]+)`", keys)) for name, keys in rows}


@each_overlay
def test_all_that_is_referred_to_exists_and_secrets_are_documented(name: str) -> None:
    objects = overlay(name)
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    there |= {("Secret", secret) for secret in documented_secrets()}
    there |= {(item["kind"], item["metadata"]["name"]) for item in render(MANIFESTS / "kueue")}
    for item in objects:
        assert references(item) <= there, title(item)
    for secret, key in secret_keys(objects):
        assert key in documented_secrets()[secret]
    assert set(documented_secrets()) >= {secret for secret, _ in secret_keys(objects)}


@each_overlay
def test_keys_of_config_maps_mounts_ports_and_selectors_have_their_other_side(name: str) -> None:
    objects = overlay(name)
    labelled = [pod["metadata"]["labels"] for _, pod in pods(objects)]
    for who, pod in pods(objects):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        # A StatefulSet's own claims are volumes too.
        owner = named(objects, *who.split(" ")) if who.startswith("StatefulSet") else {"spec": {}}
        claims = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert mounts == volumes | claims, who
        for container in containers(pod):
            for variable in container.get("env", []):
                if key := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    assert key["key"] in named(objects, "ConfigMap", key["name"])["data"]
    for service in of_kind(objects, "Service"):
        chosen = [
            pod for _, pod in pods(objects) if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1
        names = {port["name"] for container in containers(chosen[0]) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for policy in of_kind(objects, "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= labels.items() for labels in labelled), title(policy)


# -- what an administrator would refuse


@each_overlay
def test_images_of_ours_have_a_digest_and_others_a_version(name: str) -> None:
    for who, pod in pods(overlay(name)):
        for container in containers(pod):
            image = container["image"]
            assert "latest" not in image, who
            ours = image.split("/")[-1].startswith("sida")
            pattern = r"[a-z0-9.:]+/sida[a-z-]*@sha256:[0-9a-f]{64}" if ours else r"docker\.io/[a-z/]+:\d+\.\d+(-\w+)?"
            assert re.fullmatch(pattern, image), image


@each_overlay
def test_there_is_no_secret_and_no_value_that_looks_like_one(name: str) -> None:
    for secret in of_kind(overlay(name), "Secret"):  # Kubernetes fills in an account's token
        assert secret["type"] == "kubernetes.io/service-account-token"
        assert not {"data", "stringData"} & set(secret)
    for item in overlay(name):
        for path, value in leaves(item):
            assert not re.search(r"//[^/\s@]*:[^/\s@]*@", str(value)), path
    for who, pod in pods(overlay(name)):
        for container in containers(pod):
            for variable in container.get("env", []):
                if "value" in variable:
                    refuse_secret(who, variable["name"], variable["value"], "")


def test_no_file_of_the_manifests_holds_a_secret() -> None:
    for path in MANIFESTS.rglob("*.yaml"):
        text = path.read_text()
        empty = text.count("type: kubernetes.io/service-account-token")
        assert text.count("kind: Secret\n") == empty and "secretGenerator" not in text
        assert not re.search(r"(?i)\b(password|token|secret-key): *[^ {]", text), path


@each_overlay
def test_every_container_asks_for_an_amount_and_memory_has_a_limit(name: str) -> None:
    default = named(overlay(name), "LimitRange", "sida")["spec"]["limits"][0]
    assert {"cpu", "memory"} <= set(default["defaultRequest"]) and "memory" in default["default"]
    for who, pod in pods(overlay(name)):
        if who.startswith("TrainingRuntime"):
            continue  # the TrainJob says how much
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), who
            assert "memory" in container["resources"]["limits"], who


@each_overlay
def test_traffic_is_denied_unless_a_policy_allows_it(name: str) -> None:
    policies = of_kind(overlay(name), "NetworkPolicy")
    deny = named(policies, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        spec = policy["spec"]
        for way, peer in (("ingress", "from"), ("egress", "to")):
            assert (way.capitalize() in spec["policyTypes"]) or way not in spec, title(policy)
            for rule in spec.get(way, []):
                assert rule, f"{title(policy)} allows everything"
                if peer not in rule:  # anyone, but on few ports
                    assert (way, {port["port"] for port in rule["ports"]}) == ("egress", {443, 6443})
                for block in (each["ipBlock"] for each in rule.get(peer, []) if "ipBlock" in each):
                    assert "169.254.0.0/16" in block["except"], "the metadata server"


@each_overlay
def test_only_steps_that_launch_reach_the_api_server_and_get_a_token(name: str) -> None:
    for item in of_kind(overlay(name), "ServiceAccount"):
        assert item["automountServiceAccountToken"] is False, title(item)
    for who, pod in pods(overlay(name)):
        with_token = pod["spec"].get("automountServiceAccountToken", False)
        assert with_token is (pod["spec"].get("serviceAccountName") == "sida-launcher"), who


@each_overlay
def test_the_steps_that_launch_are_those_of_the_policy_and_some_do(name: str) -> None:
    policy = named(overlay(name), "NetworkPolicy", "launchers-to-the-api-server")
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert sorted(expression["values"]) == sorted(step.replace("_", "-") for step in LAUNCHED)
    launching = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for _, pod in pods(overlay(name))
        if pod["spec"].get("serviceAccountName") == "sida-launcher"
    }
    assert "distill" in launching and launching <= set(expression["values"])


@each_overlay
def test_the_train_job_of_distill_has_two_nodes_and_fits_the_runtime_of_the_overlay(name: str) -> None:
    job = named(overlay(name), "CronJob", "sida-distill")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    target = parse_target(env["SIDA_TRAINJOB"])
    made = trainjob_manifest.train_job(
        target, name="sida-distill-x", step="distill", run="r", folder="f", processes=2, threads=1
    )
    assert env["SIDA_LAUNCHER"] == "trainjob"
    assert crds.errors(made) == []
    assert made["spec"]["trainer"]["numNodes"] == 2
    runtime = named(overlay(name), "TrainingRuntime", made["spec"]["runtimeRef"]["name"])
    assert runtime["metadata"]["namespace"] == made["metadata"]["namespace"]
    if queue := made["metadata"]["labels"].get(trainjob_manifest.QUEUE):
        assert named(overlay(name), "LocalQueue", queue)
    (pod,) = (
        pod
        for _, pod in pods(
            [{**runtime, "spec": {"template": made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]}}]
        )
    )
    assert violations(pod) == []


# -- the runtime


@each_overlay
def test_the_gang_restarts_as_a_whole_and_a_lost_node_does_not_count(name: str) -> None:
    spec = named(overlay(name), "TrainingRuntime", "sida-torch")["spec"]["template"]["spec"]
    (job,) = spec["replicatedJobs"]
    assert job["name"] == "node" and [c["name"] for c in job["template"]["spec"]["template"]["spec"]["containers"]] == [
        "node"
    ]
    assert job["template"]["spec"]["backoffLimit"] == 0
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    (action,) = spec["failurePolicy"]["rules"]
    assert action["action"] == "RestartJobSetAndIgnoreMaxRestarts" and action["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]
    assert spec["failurePolicy"]["maxRestarts"] == 3


@each_overlay
def test_what_runtime_prints_changes_nothing_of_an_installed_overlay(name: str) -> None:
    # Several users' KFP has another account: docs/install.md has the overlay patched, which the profile for GPUs says already.
    where = profile_of(name)
    one_user = where.kfp.model_copy(update={"namespace": None, "service_account": None})
    printed = list(yaml.safe_load_all(to_yaml(objects(where.model_copy(update={"kfp": one_user}), name))))
    kinds = ["TrainingRuntime", "Role", "RoleBinding", *["RoleBinding"] * (where.engine == "kubeflow")]
    assert [item["kind"] for item in printed] == kinds
    for item in printed:
        assert named(overlay(name), item["kind"], item["metadata"]["name"]) == item, title(item)


def test_shared_memory_two_nodes_and_what_nccl_is_told_come_with_the_profile_for_gpus() -> None:
    job = named(overlay("gpu"), "CronJob", "sida-distill")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    target = parse_target(env["SIDA_TRAINJOB"])
    made = trainjob_manifest.train_job(target, name="x", step="distill", run="r", folder="f", processes=2, threads=1)[
        "spec"
    ]
    (patch,) = made["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    volumes = {
        volume["name"]: volume["emptyDir"] for volume in patch["template"]["spec"]["template"]["spec"]["volumes"]
    }
    assert made["trainer"]["numNodes"] == 2
    assert volumes["shm"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert {"name": "NCCL_IB_DISABLE", "value": "0"} in made["trainer"]["env"]


# -- roles


def rules(objects: list[Object]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (item["metadata"]["name"], rule) for item in of_kind(objects, "Role", "ClusterRole") for rule in item["rules"]
    ]


@each_overlay
def test_no_role_is_cluster_wide_or_has_a_wildcard_or_may_read_secrets_or_make_roles(name: str) -> None:
    assert of_kind(overlay(name), "ClusterRole", "ClusterRoleBinding") == []
    for role, rule in rules(overlay(name)):
        words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not any("*" in word for word in words), role
        assert not {"secrets", "serviceaccounts/token", "pods/exec", "pods/attach"} & set(rule["resources"]), role
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), role
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"], role


@each_overlay
def test_who_is_bound_is_one_of_ours_or_known_of_the_cluster(name: str) -> None:
    ours = {("ServiceAccount", item["metadata"]["name"], "sida") for item in of_kind(overlay(name), "ServiceAccount")}
    for binding in of_kind(overlay(name), "RoleBinding"):
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"], subject.get("namespace")) in ours | OF_THE_CLUSTER


def test_kueue_s_cluster_wide_objects_are_valid_and_have_no_namespace() -> None:
    objects = render(MANIFESTS / "kueue")
    assert [item["kind"] for item in objects] == ["ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass"]
    assert [line for item in objects for line in invalid(item)] == []
    assert not any("namespace" in item["metadata"] for item in objects)
    (group,) = objects[0]["spec"]["resourceGroups"]
    assert [flavor["name"] for flavor in group["flavors"]] == [objects[1]["metadata"]["name"]]
    assert [amount["name"] for amount in group["flavors"][0]["resources"]] == group["coveredResources"]


def test_base_renders_alone() -> None:
    assert {item["kind"] for item in render(MANIFESTS / "base")} >= {"Namespace", "Role", "TrainingRuntime"}
