"""manifests/users: once for a Kubeflow with several users; the roles and runtime are those of manifests/base."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipeline.commands.runtime import objects as of_runtime
from pipeline.profile import load
from sida.launch import trainjob_manifest
from tests.conftest import ROOT
from tests.launch.crds import errors
from tests.manifests.pod_security import violations
from tests.manifests.render import MANIFESTS, Object, named, pods, render

USERS = render(MANIFESTS / "users")
PAGE = (ROOT / "docs" / "administration.md").read_text()


def spec_of_pods(runtime: Object) -> Object:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec: Object = job["template"]["spec"]["template"]["spec"]
    return spec


def test_the_role_that_joins_kubeflow_edit_is_the_launcher_s() -> None:
    role = named(USERS, "ClusterRole", "sida-kubeflow-edit")
    assert role["rules"] == trainjob_manifest.role("any")["rules"]
    assert role["metadata"]["labels"]["rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit"] == "true"


def test_the_cluster_s_runtime_is_the_namespace_s_but_for_the_account() -> None:
    runtime = named(USERS, "ClusterTrainingRuntime", "sida-torch")
    base = named(render(MANIFESTS / "base"), "TrainingRuntime", "sida-torch")
    assert "namespace" not in runtime["metadata"]
    assert spec_of_pods(base).pop("serviceAccountName") == "sida-trainer"
    assert runtime["spec"] == base["spec"]
    assert errors(base | {"spec": runtime["spec"]}) == []
    assert [line for _, pod in pods([base]) for line in violations(pod)] == []


def profile_of_the_page(folder: Path) -> str:
    (text,) = re.findall(r"```yaml\n(# the profile.*?)```", PAGE, re.S)
    path = folder / "ann.yaml"
    path.write_text(text.replace('cpu: ""', f"cpu: registry.test/sida@sha256:{'1' * 64}"))
    return str(path)


def test_the_page_s_profile_keeps_everything_in_the_user_s_namespace_and_needs_no_runtime_there(tmp_path: Path) -> None:
    mine = load(profile_of_the_page(tmp_path))
    assert mine.trainjob is not None
    assert {mine.kfp.namespace, mine.job_namespace, mine.trainjob.namespace} == {"ann"}
    assert mine.store.endswith("/ann")
    assert "TrainingRuntime" not in {item["kind"] for item in of_runtime(mine, "ann.yaml")}


@pytest.mark.parametrize("account", ["default-editor", "default"])
def test_the_page_names_the_accounts_of_a_user_s_namespace(account: str) -> None:
    assert f"`{account}`" in PAGE


def test_the_page_s_policy_of_a_bucket_is_json_that_names_the_prefix_everywhere() -> None:
    import json

    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    listing, objects = json.loads(text)["Statement"]
    assert listing["Action"] == "s3:ListBucket" and set(listing["Condition"]) == {"StringLike"}
    assert listing["Condition"]["StringLike"]["s3:prefix"] == "ann/*"
    assert objects["Resource"].endswith(":::my-bucket/ann/*")
    asked = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
    assert set(objects["Action"]) == asked


def test_the_page_s_yaml_is_yaml() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S):
        assert list(yaml.safe_load_all(text))
