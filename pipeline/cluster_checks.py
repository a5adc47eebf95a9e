"""Checks of a profile's cluster before a run: images by digest, namespaces, accounts, Secrets; ``room`` has those of amounts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pipeline.profile import KFP_NAMESPACE, Profile, has_digest
from sida.errors import UserError
from sida.launch.cluster import ApiRefused, understood
from sida.launch.installed import Installed
from sida.registry import STEPS

# off: not there, and not needed on a laptop; unseen: could not be looked at from here, or with these rights
State = Literal["ok", "off", "bad", "unseen"]
MAY_NOT = "have `doctor` run by somebody who may look"
KFP_ACCOUNT = "pipeline-runner"  # of a Kubeflow Pipelines with one user
USER_ACCOUNT = "default-editor"  # of each user's namespace, where Kubeflow has several
Thing = TypeVar("Thing")
REMEDIES = {
    "images": ("every run", "build and push them, and write NAME@sha256:DIGEST into the profile (docs/install.md)"),
    "namespaces": ("every pod there", "apply the overlay (docs/install.md), or correct the profile"),
    "accounts": ("pods that run as one of them", "apply the overlay (docs/install.md), or correct the profile"),
    "secrets": ("pods that read them", "docs/secrets.md says how to create them"),
    "claims": (
        "pods that mount them",
        "create the claim, or correct volumes and cache in the profile (docs/kubeflow.md)",
    ),
    "quota": ("pods that it refuses", "ask for less in the profile, or for a larger quota"),
    "room": (
        "pods that no node can take, unless the cluster adds nodes",
        "ask for less in the profile, or correct its selectors",
    ),
}


@dataclass(frozen=True)
class Check:
    """Line of ``doctor``: a result, what a failure prevents and how to fix it; these two are empty when all is well."""

    name: str
    state: State
    found: str
    prevents: str = ""
    mend: str = ""


def runs_as(profile: Profile) -> tuple[str, str]:
    """Return (namespace, service account) of the pods of a run; on Argo of those that launch nothing."""
    if profile.engine == "argo":
        return profile.namespace, profile.job_service_account or "default"
    account = KFP_ACCOUNT if profile.namespace == KFP_NAMESPACE else USER_ACCOUNT
    return profile.namespace, profile.kfp.service_account or account


def images(profile: Profile) -> Check:
    """Check that every image of a step's pod or TrainJob is named by its digest. Whether a node can pull it is not tried."""
    used = dict(profile.image_for(step) for step in STEPS) | {"images.cpu": profile.images.cpu}
    unnamed = {field: image for field, image in used.items() if not has_digest(image)}
    wrong = [f"{field} {image!r} has no digest" if image else f"{field} is empty" for field, image in unnamed.items()]
    if wrong:
        return Check("images", "bad", "; ".join(wrong), *REMEDIES["images"])
    return Check("images", "ok", f"by digest: {', '.join(used)} (whether nodes can pull them was not tried)")


def namespaces(profile: Profile, cluster: Installed | Check) -> Check:
    """Check that the namespaces exist."""
    labels = {name: f"namespace {name}" for name in places(profile)}
    return looked("namespaces", cluster, labels, lambda seen, name: "" if seen.has_namespace(name) else "is missing")


def accounts(profile: Profile, cluster: Installed | Check) -> Check:
    """Check the service accounts of a run's pods, of rerun's Jobs and of TrainJobs."""
    jobs = profile.trainjob
    named = [runs_as(profile)]
    if profile.engine == "argo":
        launching = jobs.launcher_account if jobs else None
        named += [(profile.namespace, name) for name in (profile.argo.executor_account, launching) if name]
    if profile.job_namespace:
        launching = jobs.launcher_account if jobs else None
        named += [(profile.job_namespace, name) for name in (profile.job_service_account, launching) if name]
    if jobs is not None and jobs.service_account:
        named.append((jobs.namespace, jobs.service_account))
    labels = {pair: "/".join(pair) for pair in named}
    return looked("accounts", cluster, labels, lambda seen, pair: "" if seen.has_account(*pair) else "is missing")


def secrets(profile: Profile, cluster: Installed | Check) -> Check:
    """Check that every Secret exists in every namespace whose pods read it, with the keys that the profile names."""
    keys = {secret.name: set(secret.variables.values()) for secret in profile.secrets}
    keys |= {name: set() for name in profile.image_pull_secrets}
    labels = {(namespace, name): asked for namespace in places(profile) for name, asked in keys.items()}
    if profile.engine == "argo":  # which Argo mounts into its own containers; its name follows from the account's
        labels[profile.namespace, f"{profile.argo.executor_account}.service-account-token"] = {"token"}
    if profile.webhook is not None:  # the exit handler's alone
        labels[runs_as(profile)[0], profile.webhook.secret] = {profile.webhook.key}

    def wrong(seen: Installed, pair: tuple[str, str]) -> str:
        present = seen.secret_keys(*pair)
        if present is None:
            return "is missing"
        missing = sorted(labels[pair] - present)
        return f"has no key {', '.join(missing)}" if missing else ""

    return looked("secrets", cluster, {pair: "/".join(pair) for pair in labels}, wrong)


def places(profile: Profile) -> list[str]:
    """Return the namespaces that hold pods of a run or of its reruns."""
    jobs = profile.trainjob
    named = [runs_as(profile)[0], profile.job_namespace, jobs.namespace if jobs else None]
    return list(dict.fromkeys(name for name in named if name))


def as_pods_see_it(failed: Check, variable: str, address: str, cluster: Installed | Check) -> Check:
    """Check whether the cluster has ready pods behind a server address that this machine cannot reach.

    ``variable`` is the setting by which this machine would know another address.
    """
    failure = f"not reached from this machine ({failed.found})"
    unseen = Check(failed.name, "unseen", failure, "", f"set {variable} to an address that this machine reaches")
    host = re.fullmatch(r"([a-z0-9-]+)\.([a-z0-9-]+)(\.svc(\..+)?)?", urlsplit(address).hostname or "")
    if isinstance(cluster, Check) or host is None:
        return unseen
    service, namespace = host[1], host[2]
    try:
        ready = cluster.ready_pods(namespace, service)
    except (ApiRefused, UserError):
        return unseen
    if not ready:
        text = f"no pod answers for {service} in namespace {namespace}"
        return Check(failed.name, "bad", text, "every step", f"kubectl -n {namespace} get pods,endpointslices")
    text = (
        f"{ready} pod{'s' * (ready > 1)} of the cluster answer{'s' * (ready == 1)} for {service}.{namespace}; {failure}"
    )
    port = urlsplit(address).port or 80
    forward = f"kubectl -n {namespace} port-forward svc/{service} {port}:{port}, and {variable}=http://localhost:{port}"
    return Check(failed.name, "unseen", text, "", forward)


def looked(
    name: str, cluster: Installed | Check, labels: dict[Thing, str], fault_of: Callable[[Installed, Thing], str]
) -> Check:
    """Check each thing with one request. A thing that may not be read is named, and is no fault."""
    if isinstance(cluster, Check):
        return Check(
            name, "unseen", f"could not look: {cluster.found}", "", "set KUBECONFIG, and try `kubectl get nodes`"
        )
    faults, unseen = [], []
    for thing, label in labels.items():
        try:
            with understood(cluster.host):
                fault = fault_of(cluster, thing)
            faults += [f"{label} {fault}"] if fault else []
        except ApiRefused as error:
            unseen.append(f"{label} ({error.status}, {error.reason})")
        except UserError as error:  # the API could not be reached
            return Check(name, "unseen", f"could not look: {error}")
    remarks = [*faults, *([f"could not look at {', '.join(unseen)}"] if unseen else [])]
    if faults:
        return Check(name, "bad", "; ".join(remarks), *REMEDIES[name])
    if unseen:
        return Check(name, "unseen", "; ".join(remarks), mend=MAY_NOT)
    return Check(name, "ok", ", ".join(labels.values()) or "the profile names none")
