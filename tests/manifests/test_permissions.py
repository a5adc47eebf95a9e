"""docs/permissions.md says of every permission which call needs it; the Roles grant these and no others."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from sida.launch import trainjob_manifest
from tests.conftest import ROOT
from tests.manifests.render import OVERLAYS, named, of_kind, overlay

ARGO_ROLES = ("sida-argo", "sida-argo-user")
ROW = re.compile(r"(?m)^\| `(sida-[a-z-]+)` \| `([^`]+)` \| `([a-z]+)` \| (.+) \|$")


def documented() -> list[tuple[str, str, str, str]]:
    """(role, resource, verb, call) of every row."""
    return ROW.findall((ROOT / "docs" / "permissions.md").read_text())


def granted(name: str) -> list[tuple[str, str, str]]:
    """(role, resource, verb) of every rule; resources as kubectl writes them, with a name where the rule has one."""
    found = []
    for role in of_kind(overlay(name), "Role"):
        for rule in role["rules"]:
            (group,) = rule["apiGroups"]
            for resource in rule["resources"]:
                shown = [
                    f"{resource}{'.' * bool(group)}{group}{'/' * bool(n)}{n}" for n in rule.get("resourceNames", [""])
                ]
                found += [(role["metadata"]["name"], each, verb) for each in shown for verb in rule["verbs"]]
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_roles_grant_what_is_documented_and_no_more(name: str) -> None:
    of_argo = () if name == "argo" else ARGO_ROLES
    wanted = Counter((role, resource, verb) for role, resource, verb, _ in documented() if role not in of_argo)
    assert max(wanted.values()) == 1
    assert Counter(granted(name)) == wanted


def test_every_call_of_the_launcher_s_role_is_in_the_launcher() -> None:
    code = (ROOT / "sida" / "launch" / "cluster.py").read_text()
    rows = [row for row in documented() if row[0] == "sida-launcher"]
    for _, resource, verb, call in rows:
        method = re.match(r"`(\w+)` in sida/launch/cluster\.py", call)
        assert method and method[1] in code, f"{verb} {resource}: {call}"
    # And the other way round: no call without a row.
    used = set(re.findall(r"(?:_objects|_core)\.((?:create|get|list|patch|delete|read|replace)_namespaced_\w+)", code))
    assert used == {re.match(r"`(\w+)`", call)[1] for _, _, _, call in rows}  # type: ignore[index]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_role_that_runtime_prints_is_the_installed_one(name: str) -> None:
    assert trainjob_manifest.role("sida") == named(overlay(name), "Role", "sida-launcher")


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name != "argo"])
def test_kubeflow_s_account_of_a_run_has_the_union_of_what_steps_need(name: str) -> None:
    binding = named(overlay(name), "RoleBinding", "sida-launcher-kubeflow")
    assert binding["roleRef"]["name"] == "sida-launcher"
    steps = {"sida-step", "sida-launcher"}
    bound = {
        item["roleRef"]["name"]
        for item in of_kind(overlay(name), "RoleBinding")
        if {subject["name"] for subject in item["subjects"]} & steps
    }
    assert bound == {"sida-launcher"}


def test_on_argo_only_argo_s_own_containers_and_launching_steps_may_talk_to_the_api_server() -> None:
    bound = {
        (item["roleRef"]["name"], subject["kind"], subject["name"])
        for item in of_kind(overlay("argo"), "RoleBinding")
        for subject in item["subjects"]
    }
    assert {one for one in bound if one[1] == "ServiceAccount"} == {
        ("sida-argo", "ServiceAccount", "sida-argo"),
        ("sida-launcher", "ServiceAccount", "sida-launcher"),
    }
    account = named(overlay("argo"), "ServiceAccount", "sida-argo")
    assert account["automountServiceAccountToken"] is False
    token = named(overlay("argo"), "Secret", "sida-argo.service-account-token")
    assert token["metadata"]["annotations"]["kubernetes.io/service-account.name"] == "sida-argo"


def test_every_call_of_the_argo_user_s_role_is_in_the_code() -> None:
    code = (ROOT / "sida" / "launch" / "cluster.py").read_text()
    for role, _, _, call in documented():
        if role == "sida-argo-user" and (method := re.match(r"`(\w+)` in sida/launch/cluster\.py", call)):
            assert f"def {method[1]}(" in code, call
