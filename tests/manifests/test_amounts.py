"""What the shipped profiles ask of a laptop, added up as the scheduler does it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity

from pipeline.plan import Plan
from pipeline.pod import pod_of
from pipeline.profile import Profile, load
from sida import recipe
from sida.launch.target import parse_target
from sida.launch.trainjob_manifest import train_job
from tests.conftest import ROOT
from tests.manifests.render import containers, of_kind, overlay, pods
from tests.manifests.test_steps import DIGEST

GIB = 2**30
KFP = {"cpu": "100m", "memory": "256Mi"}  # what KFP 2.17 adds to the pod of each step
SERVERS = {"cpu": "200m", "memory": "256Mi"}  # CoreDNS, Argo, Trainer and JobSet on one node


def added(*asked: dict[str, Any]) -> dict[str, Decimal]:
    """Quantities summed up by resource."""
    return {
        name: sum((Decimal(parse_quantity(str(each.get(name, 0)))) for each in asked), Decimal(0))
        for name in ("cpu", "memory")
    }


def while_running(step: str, where: Profile) -> dict[str, Decimal]:
    """All that is requested while a step of the digits runs: its pod, KFP's part of it, its TrainJob, store and MLflow."""
    loaded = recipe.load("digits")
    servers = [
        container["resources"]["requests"]
        for _, pod in pods(of_kind(overlay("kind"), "Deployment", "StatefulSet"))
        for container in containers(pod)
    ]
    pod = pod_of(step, loaded, where, "profile")
    own, nodes = pod.resources()["requests"], []
    if told := pod.env.get("SIDA_TRAINJOB"):
        target = parse_target(str(told))
        job = train_job(target, name="x", step=step, run="", folder="f", processes=2, threads=1)["spec"]["trainer"]
        nodes = [job["resourcesPerNode"]["requests"]] * job["numNodes"]
    return added(SERVERS, *servers, own, KFP, *nodes)


@pytest.mark.parametrize(("name", "cores", "gib"), [("laptop-kind", 2, 12), ("kind-8", 8, 16)])
def test_each_step_of_the_digits_fits_beside_the_servers_and_the_pod_of_another_step(
    name: str, cores: int, gib: int
) -> None:
    loaded = load(name)
    where = loaded.model_copy(update={"images": loaded.images.model_copy(update={"cpu": f"host/sida@{DIGEST}"})})
    assert where.launched("distill") and where.needs("distill").nodes == 2
    for step in Plan.of(recipe.load("digits"), "").tasks():
        asked = while_running(step, where)
        beside = added(pod_of("compare", recipe.load("digits"), where, "profile").resources()["requests"], KFP)
        assert asked["cpu"] + beside["cpu"] <= cores, step
        assert asked["memory"] + beside["memory"] <= gib * GIB, step
    assert where.default.cpu_limit is None, "idle cores are taken"


@pytest.mark.parametrize("name", ["laptop-kind", "kind-8"])
def test_the_overlay_s_quota_has_room_for_the_pods_of_the_training(name: str) -> None:
    (quota,) = of_kind(overlay("kind"), "ResourceQuota")
    hard = quota["spec"]["hard"]
    loaded = load(name)
    where = loaded.model_copy(update={"images": loaded.images.model_copy(update={"cpu": f"host/sida@{DIGEST}"})})
    asked = while_running("distill", where)
    assert asked["cpu"] <= parse_quantity(hard["requests.cpu"])
    assert asked["memory"] <= parse_quantity(hard["requests.memory"])


def test_the_deadline_of_the_profile_for_gpus_outlasts_every_published_run() -> None:
    """On eight A100, which have a third of the H100's peak: the table is planned for H100."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = text.split("<!-- table: cost -->")[1].split("<!-- end -->")[0]
    hours = [int(found.replace(",", "")) for found in re.findall(r" M, ([\d,]+)(?= \|)", table)]
    assert len(hours) == 11 * 3 and max(hours) == 4490  # SiD on CIFAR-10
    assert max(hours) / 8 * 3 * 3600 < (load("gpu").needs("distill").timeout_seconds or 0)


def test_on_gpus_whatever_takes_all_accelerators_waits_in_the_queue() -> None:
    loaded = load("gpu")
    images = loaded.images.model_copy(update={"cpu": f"host/sida@{DIGEST}", "cuda": f"host/sida-cuda@{DIGEST}"})
    where = loaded.model_copy(update={"images": images})
    for name in ("cifar10-uncond-sid2a", "imagenet-64"):
        reproduced = recipe.load(name)
        pods_of = {step: pod_of(step, reproduced, where, "gpu") for step in Plan.of(reproduced, "").tasks()}
        assert reproduced.execution.processes > 1
        own = {step: pod.processes for step, pod in pods_of.items() if pod.accelerator}
        assert own == {"compare": 1}  # Kueue does not queue the pods of Kubeflow Pipelines
