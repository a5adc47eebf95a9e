"""Checks of this machine, each with what its failure prevents and how to fix it. Nothing is changed or installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline import cluster_checks, room
from pipeline.cluster_checks import Check
from pipeline.engines.base import engine_of
from pipeline.observing import ENGINES
from pipeline.profile import Profile
from pipeline.remote import using_store
from sida import recipe as recipes
from sida.addresses import redact
from sida.errors import SidaError, StoreUnusable, UserError
from sida.launch.cluster import ApiRefused, explain
from sida.launch.installed import Installed
from sida.layout import doctor_key
from sida.patience import impatient
from sida.recipe import Recipe
from sida.settings import environment, settings
from sida.stores import open_store
from sida.tracking.server import check as check_mlflow

GIB = 2**30
SMALL = "digits"  # the recipe whose pods are looked for, where none is given
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


def examine(profile: Profile | None = None, recipe: Recipe | None = None) -> list[Check]:
    """Run every check in turn, with a profile on its store, MLflow and cluster, which has to have room for the recipe's pods.

    A check that itself fails is reported as one.
    """
    with impatient():  # it is to say how things stand now
        if profile is None:
            return [_guarded(name, None) for name in CHECKS]
        own, cluster = environment(), _cluster(profile)
        with using_store(profile):
            results = [_guarded(name, profile) for name in CHECKS]
        for place, check in enumerate(results):
            variable = {"store": "SIDA_S3_ENDPOINT", "mlflow": "MLFLOW_TRACKING_URI"}.get(check.name, "")
            if check.state == "bad" and variable in profile.env and variable not in own:
                results[place] = cluster_checks.as_pods_see_it(check, variable, profile.env[variable], cluster)
        results.append(cluster_checks.images(profile))
        looks = (cluster_checks.namespaces, cluster_checks.accounts, cluster_checks.secrets)
        results += [look(profile, cluster) for look in looks]
        try:
            steps = room.groups_of(profile, recipe or recipes.load(SMALL))
        except UserError as error:
            return [*results, Check("room", "bad", str(error), "every run", "correct the profile")]
        return [*results, room.claims(profile, steps, cluster), room.quota(steps, cluster), room.room(steps, cluster)]


def summary(checks: list[Check], profile: str | None) -> str:
    """Return the last line: of this machine, or of a profile's cluster."""
    bad, unseen = ([check.name for check in checks if check.state == state] for state in ("bad", "unseen"))
    place = f"runs on the cluster of {profile}" if profile else "runs on this machine"
    if bad:
        return f"not ready for {place}: {len(bad)} of {len(checks)} checks are bad: {', '.join(bad)}"
    if unseen:
        return f"nothing is wrong that could be seen for {place}; not looked at: {', '.join(unseen)}"
    return f"ready for {place}"


def _guarded(name: str, profile: Profile | None) -> Check:
    try:
        return CHECKS[name](profile)
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
    "engine": (
        "submit, schedule, status, cancel, logs",
        "Kubeflow: forward the port (docs/kubeflow.md), or correct kfp.host; Argo: docs/argo.md",
    ),
}


def _python(_: Profile | None) -> Check:
    # an older one cannot read our files
    return Check("python", "ok", f"{sys.version.split()[0]}, {os.cpu_count()} processors")


def _torch(_: Profile | None) -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "bad", "not installed", "training, scoring, sampling", "make setup")
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPU"
    return Check("torch", "ok", f"{torch.__version__}, built {built}, {torch.get_num_threads()} threads")


def _gpus(_: Profile | None) -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("gpus", "off", "not known without torch")
    import torch

    from sida import devices

    large = "recipes of 32x32 and larger in less than weeks"
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


def _packages(_: Profile | None) -> Check:
    missing = {name: use for name, use in PACKAGES.items() if importlib.util.find_spec(name) is None}
    if not missing:
        return Check("packages", "ok", f"all {len(PACKAGES)} that the verbs need")
    listed = "; ".join(f"{name} ({use})" for name, use in missing.items())
    return Check("packages", "bad", f"missing: {', '.join(missing)}", listed, "make setup")


def _store(_: Profile | None) -> Check:
    """Write, read and delete a small object."""
    store, key, content = open_store(settings().store), doctor_key(uuid.uuid4().hex), b"doctor"
    store.put(key, content)
    try:
        if store.read(key) != content:
            raise StoreUnusable(f"{store.address}: what was written is not what is read")
    finally:
        store.delete(key)
    return Check("store", "ok", f"{store.address}: written, read, deleted")


def _mlflow(_: Profile | None) -> Check:
    address = settings().mlflow
    if address == "none":
        return Check("mlflow", "off", "MLFLOW_TRACKING_URI is none", "curves in MLflow", "unset it")
    check_mlflow(address)
    return Check("mlflow", "ok", redact(address))


def _disk(_: Profile | None) -> Check:
    folders = {"SIDA_RUNS": settings().runs, "SIDA_CACHE": settings().cache}
    free = {name: shutil.disk_usage(_existing(path)).free for name, path in folders.items()}
    text = ", ".join(f"{size / GIB:.1f} GiB free for {name}" for name, size in free.items())
    if min(free.values()) < LEAST_DISK:
        return Check("disk", "bad", text, *REMEDIES["disk"])
    return Check("disk", "ok", text)


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _kubernetes(profile: Profile | None) -> Check:
    cluster = _cluster(profile)
    if isinstance(cluster, Check):
        return cluster
    return Check("kubernetes", "ok", f"{cluster.host} (configured; whether it answers: trainer, next)")


def _trainer(profile: Profile | None) -> Check:
    cluster = _cluster(profile)
    if isinstance(cluster, Check):
        return Check("trainer", "off", "no cluster to ask", *REMEDIES["trainer"])
    try:
        if not cluster.serves_trainjobs():
            return Check("trainer", "bad", f"{cluster.host} serves no TrainJobs", *REMEDIES["trainer"])
        if fault := _runtime_fault(profile, cluster):
            mend = "sida runtime --profile P | kubectl apply -f -"
            return Check("trainer", "bad", fault, REMEDIES["trainer"][0], mend)
    except ApiRefused as error:
        if error.status == 403:
            return Check("trainer", "unseen", f"could not look: {error}", mend=cluster_checks.MAY_NOT)
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


def _cluster(profile: Profile | None) -> Installed | Check:
    """Return a cluster, or the check that says why there is none: a fault only if a profile needs one."""
    if importlib.util.find_spec("kubernetes") is None:
        return Check("kubernetes", "off", "package kubernetes is not installed", *REMEDIES["kubernetes"])
    jobs = profile.trainjob if profile else None
    try:
        return Installed(jobs.namespace if jobs else "default", outage_seconds=3.0)
    except UserError as error:
        return Check("kubernetes", "bad" if jobs else "off", str(error), *REMEDIES["kubernetes"])


def _engine(profile: Profile | None) -> Check:
    if profile is None:
        return Check("engine", "off", "no profile given", REMEDIES["engine"][0], "sida doctor --profile P")
    return Check("engine", "ok", f"{ENGINES[profile.engine]}: {engine_of(profile).found()}")


CHECKS: dict[str, Callable[[Profile | None], Check]] = {
    "python": _python,
    "torch": _torch,
    "gpus": _gpus,
    "packages": _packages,
    "store": _store,
    "mlflow": _mlflow,
    "disk": _disk,
    "kubernetes": _kubernetes,
    "trainer": _trainer,
    "engine": _engine,
}
