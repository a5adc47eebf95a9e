"""Checks of this machine, each with what its failure prevents and how to fix it. Nothing is changed or installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checks import Check

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.launch.installed import Installed

GIB = 2**30
LEAST_DISK = 5 * GIB
PACKAGES = {
    "numpy": "everything",
    "pydantic": "everything",
    "safetensors": "networks and checkpoints",
    "kfp": "run, compile, submit",
    "botocore": "a store on S3",
    "matplotlib": "the report's curves",
    "jinja2": "the report's page",
    "PIL": "images from files, sample grids",
    "sklearn": "the recipe digits",
    "rich": "the progress bar on a terminal",
}


def examine(profile: Profile | None = None) -> list[Check]:
    """Run every check in turn. A check that itself fails is reported as one."""
    from sida.patience import impatient

    checks: list[Callable[[], Check]] = [_python, _torch, _gpus, _packages, _store, _mlflow, _disk]
    checks += [lambda: _kubernetes(profile), lambda: _trainer(profile), lambda: _kfp(profile)]
    with impatient():  # it is to say how things stand now
        if profile is None:
            return [_guarded(check, name) for check, name in zip(checks, NAMES, strict=True)]
        return _of_profile(profile, checks)


def summary(checks: list[Check], profile: str | None) -> str:
    """Return the last line: of this machine, or of a profile's cluster."""
    bad, unseen = ([check.name for check in checks if check.state == state] for state in ("bad", "unseen"))
    place = f"runs on the cluster of {profile}" if profile else "runs on this machine"
    if bad:
        return f"not ready for {place}: {len(bad)} of {len(checks)} checks are bad: {', '.join(bad)}"
    if unseen:
        return f"nothing is wrong that could be seen for {place}; not looked at: {', '.join(unseen)}"
    return f"ready for {place}"


def _of_profile(profile: Profile, checks: list[Callable[[], Check]]) -> list[Check]:
    """Run the same checks on the profile's store and MLflow, and those of its cluster."""
    from pipeline import cluster_checks
    from pipeline.remote import using_store
    from sida.settings import environment

    own, cluster = environment(), _seen(profile)
    with using_store(profile):
        results = [_guarded(check, name) for check, name in zip(checks, NAMES, strict=True)]
    for place, check in enumerate(results):
        variable = {"store": "SIDA_S3_ENDPOINT", "mlflow": "MLFLOW_TRACKING_URI"}.get(check.name, "")
        if check.state == "bad" and variable in profile.env and variable not in own:
            results[place] = cluster_checks.as_pods_see_it(check, variable, profile.env[variable], cluster)
    results.append(cluster_checks.images(profile))
    looks = (cluster_checks.namespaces, cluster_checks.accounts, cluster_checks.secrets)
    return [*results, *(look(profile, cluster) for look in looks)]


NAMES = ("python", "torch", "gpus", "packages", "store", "mlflow", "disk", "kubernetes", "trainer", "kfp")


def _guarded(check: Callable[[], Check], name: str) -> Check:
    from sida.errors import SidaError

    try:
        return check()
    except (SidaError, OSError) as error:
        prevents, mend = REMEDIES.get(name, ("", ""))
        return Check(name, "bad", " ".join(str(error).split()), prevents, mend)


REMEDIES = {
    "store": (
        "every verb that runs or reads results",
        "correct SIDA_STORE, SIDA_S3_ENDPOINT and the AWS_ keys (docs/secrets.md)",
    ),
    "mlflow": (
        "curves in MLflow; the store keeps them all the same",
        "start the server, or unset MLFLOW_TRACKING_URI; then `track`",
    ),
    "disk": ("checkpoints and data sets", "free some, or set SIDA_RUNS, SIDA_STORE and SIDA_CACHE to another disk"),
    "kubernetes": ("launching TrainJobs, rerun on the cluster", "set KUBECONFIG, and try `kubectl get nodes`"),
    "trainer": ("steps with launcher: trainjob", "install Kubeflow Trainer (docs/install.md), then `runtime`"),
    "kfp": (
        "submit, schedule, status, cancel, logs",
        "forward the port (docs/kubeflow.md), or correct kfp.host in the profile",
    ),
}


def _python() -> Check:
    return Check(
        "python", "ok", f"{sys.version.split()[0]}, {os.cpu_count()} processors"
    )  # older ones cannot read our files


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "bad", "not installed", "training, scoring, sampling", "make setup")
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPU"
    return Check("torch", "ok", f"{torch.__version__}, built {built}, {torch.get_num_threads()} threads")


def _gpus() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("gpus", "off", "not known without torch")
    import torch

    large = "recipes of 32x32 and larger in less than weeks"
    from sida import devices

    if cards := devices.cards():
        return Check("gpus", "ok", ", ".join(f"{card.name} {card.total_memory / GIB:.0f} GiB" for card in cards))
    if torch.version.cuda:
        return Check("gpus", "bad", "this torch is built for CUDA and sees none", large, "check the driver: nvidia-smi")
    return Check(
        "gpus",
        "off",
        "none: a CPU build of torch",
        large,
        "on a GPU machine: .venv/bin/python -m pip install --force-reinstall torch==2.13.0 (docs/benchmarks.md)",
    )


def _packages() -> Check:
    missing = {name: use for name, use in PACKAGES.items() if importlib.util.find_spec(name) is None}
    if not missing:
        return Check("packages", "ok", f"all {len(PACKAGES)} that the verbs need")
    listed = "; ".join(f"{name} ({use})" for name, use in missing.items())
    return Check(
        "packages", "bad", f"missing: {', '.join(missing)}", listed, "make setup, or pip install 'sida[pipeline]'"
    )


def _store() -> Check:
    """Write, read and delete a small object."""
    from sida.errors import StoreUnusable
    from sida.layout import doctor_key
    from sida.settings import settings
    from sida.stores import open_store

    store, key, content = open_store(settings().store), doctor_key(uuid.uuid4().hex), b"doctor"
    store.put(key, content)
    try:
        if store.read(key) != content:
            raise StoreUnusable(f"{store.address}: what was written is not what is read")
    finally:
        store.delete(key)
    return Check("store", "ok", f"{store.address}: written, read, deleted")


def _mlflow() -> Check:
    from sida.settings import settings
    from sida.stores.base import redact
    from sida.tracking.server import check

    address = settings().mlflow
    if address == "none":
        return Check("mlflow", "off", "MLFLOW_TRACKING_URI is none", "curves in MLflow", "unset it")
    check(address)
    return Check("mlflow", "ok", redact(address))


def _disk() -> Check:
    from sida.settings import settings

    here = settings()
    places = {"SIDA_RUNS": here.runs, "SIDA_CACHE": here.cache}
    free = {name: shutil.disk_usage(_existing(path)).free for name, path in places.items()}
    text = ", ".join(f"{size / GIB:.1f} GiB free for {name}" for name, size in free.items())
    return Check("disk", "ok" if min(free.values()) >= LEAST_DISK else "bad", text, *_when(free))


def _when(free: dict[str, int]) -> tuple[str, str]:
    return ("", "") if min(free.values()) >= LEAST_DISK else REMEDIES["disk"]


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _kubernetes(profile: Profile | None) -> Check:
    cluster = _cluster(profile)
    if isinstance(cluster, Check):
        return cluster
    return Check("kubernetes", "ok", f"{cluster.host} (configured; whether it answers: trainer, next)")


def _trainer(profile: Profile | None) -> Check:
    from sida.errors import UserError
    from sida.launch.cluster import Refused, explain

    cluster = _cluster(profile)
    if isinstance(cluster, Check):
        return Check("trainer", "off", "no cluster to ask", *REMEDIES["trainer"])
    try:
        if not cluster.serves_trainjobs():
            return Check("trainer", "bad", f"{cluster.host} serves no TrainJobs", *REMEDIES["trainer"])
        if fault := _runtime_fault(profile, cluster):
            mend = "sida runtime --profile P | kubectl apply -f -"
            return Check("trainer", "bad", fault, REMEDIES["trainer"][0], mend)
    except Refused as error:
        if error.status == 403:
            return Check(
                "trainer", "unseen", f"could not look: {error}", "", "have `doctor` run by somebody who may look"
            )
        raise explain(error, "ask for TrainJobs", cluster.namespace) from error
    except UserError as error:
        return Check("trainer", "bad", str(error), *REMEDIES["trainer"])
    jobs = profile.trainjob if profile else None
    runtime = f", {jobs.runtime_kind} {jobs.runtime} is in {jobs.namespace}" if jobs else ""
    return Check("trainer", "ok", f"{cluster.host} serves TrainJobs{runtime}")


def _runtime_fault(profile: Profile | None, cluster: Installed) -> str:
    """Return what is wrong with the runtime that the profile's TrainJobs refer to; empty if nothing is."""
    jobs = profile.trainjob if profile else None
    if jobs is None:
        return ""
    if not cluster.has_runtime(jobs.runtime_kind, jobs.runtime):
        return f"no {jobs.runtime_kind} {jobs.runtime} in {jobs.namespace}"
    if jobs.runtime_kind == "ClusterTrainingRuntime":  # the administrator's
        return ""
    labels = cluster.pod_labels(jobs.runtime) or {}
    if labels.get("app.kubernetes.io/component") != "trainer":
        return f"pods of {jobs.runtime} in {jobs.namespace} lack the labels by which network policies know them"
    return ""


def _seen(profile: Profile) -> Installed | str:
    """Return the cluster for looking around, or the reason why there is none."""
    cluster = _cluster(profile)
    return cluster.found if isinstance(cluster, Check) else cluster


def _cluster(profile: Profile | None) -> Installed | Check:
    """Return a cluster, or the check that says why there is none: a fault only if a profile needs one."""
    from sida.errors import UserError
    from sida.launch.installed import Installed

    if importlib.util.find_spec("kubernetes") is None:
        return Check("kubernetes", "off", "package kubernetes is not installed", *REMEDIES["kubernetes"])
    jobs = profile.trainjob if profile else None
    try:
        return Installed(jobs.namespace if jobs else "default", outage_seconds=3.0)
    except UserError as error:
        return Check("kubernetes", "bad" if jobs else "off", str(error), *REMEDIES["kubernetes"])


def _kfp(profile: Profile | None) -> Check:
    if profile is None:
        return Check("kfp", "off", "no profile given", REMEDIES["kfp"][0], "sida doctor --profile P")
    from pipeline.client import Client

    Client(profile)
    return Check("kfp", "ok", f"{profile.kfp.host or 'found through kubectl'} answers")
