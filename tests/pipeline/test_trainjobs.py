"""What the command line does for steps that run as TrainJobs, against stand-ins for KFP and for Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import profile
from pipeline.pod import pod_of
from pipeline.profile import load
from sida import recipe
from sida.launch.pod import Pod
from sida.launch.target import Target, parse_target
from sida.launch.trainjob_manifest import job_name, train_job
from sida.stores import open_store
from tests.launch.crds import errors
from tests.launch.kube_server import NAMESPACE, Kube
from tests.launch.kube_server import serve as serve_kube
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp

SECTION = "trainjob: {namespace: work, runtime: sida-torch, queue: gpu, service_account: trainer}\n"
LAUNCHED = (
    ("job_namespace: work", SECTION + "job_namespace: work"),
    ("    memory: 64Gi\n", "    memory: 64Gi\n    launcher: trainjob\n    nodes: 2\n"),
)
CPU = "registry.test/sida@sha256:" + "1" * 64
IMAGE = "registry.test/sida-cuda@sha256:" + "2" * 64


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    with serve_kube(tmp_path) as (path, memory):
        monkeypatch.setenv("KUBECONFIG", path)
        yield memory


def container(text: str, step: str) -> dict[str, Any]:
    executors = yaml.safe_load(text.partition("\n---\n")[0])["deploymentSpec"]["executors"]
    return dict(executors[f"exec-{step}"]["container"])


def test_a_launched_step_s_pod_is_light_and_its_variables_make_a_valid_trainjob(command: Command) -> None:
    said = command("compile", "digits", "--profile", command.profile(*LAUNCHED))
    assert said.status == 0, said.err
    pod = container(said.out, "distill")
    assert pod["image"].startswith("registry.test/sida@")  # the CPU image
    assert "accelerator" not in pod["resources"]
    assert pod["resources"]["resourceMemoryLimit"] == "2Gi"
    env = {item["name"]: item["value"] for item in pod["env"]}
    assert env["SIDA_LAUNCHER"] == "trainjob"
    target = parse_target(env["SIDA_TRAINJOB"])
    assert (target.pod.image, target.nodes, target.pod.memory, target.queue) == (IMAGE, 2, "64Gi", "gpu")
    assert (target.pod.accelerator, target.pod.timeout_seconds) == ("nvidia.com/gpu", 86400)
    made = train_job(target, name="sida-x", step="distill", run="r", folder="jobs/x", processes=2, threads=1)
    assert errors(made) == []
    assert "secretKeyRef" in json.dumps(made) and "SIDA_LAUNCHER" not in json.dumps(made)
    assert "SIDA_LAUNCHER" not in str(container(said.out, "score"))


def test_the_profile_s_grace_is_that_of_the_trainjob_s_pods_and_of_rerun_s_job(command: Command) -> None:
    longer = (LAUNCHED[0][0], LAUNCHED[0][1].replace("gpu,", "gpu, grace_seconds: 900,"))
    for changes, told, own in ((LAUNCHED, None, 120), ((longer, LAUNCHED[1]), 900, 900)):
        pod = pod_of("distill", recipe.load("digits"), profile.load(command.profile(*changes)), "mine")
        assert parse_target(str(pod.env["SIDA_TRAINJOB"])).grace_seconds == told
        assert pod.as_job([], [], {})["template"]["spec"]["terminationGracePeriodSeconds"] == own


def divided(command: Command, division: str) -> str:
    """The path of a profile whose distillation is divided so, with and without a TrainJob."""
    return command.profile(LAUNCHED[0], ("    memory: 64Gi\n", f"    memory: 64Gi\n    {division}\n"))


def test_a_profile_s_processes_take_the_place_of_the_recipe_s(command: Command) -> None:
    digits = recipe.load("digits")
    assert digits.execution.processes == 2
    launched = pod_of(
        "distill", digits, load(divided(command, "launcher: trainjob\n    nodes: 2\n    processes: 4")), ""
    )
    target = parse_target(str(launched.env["SIDA_TRAINJOB"]))
    made = train_job(target, name="sida-x", step="distill", run="r", folder="j", processes=2, threads=1)
    assert errors(made) == []
    trainer = made["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 2)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == 2
    alone = pod_of("distill", digits, load(divided(command, "processes: 4")), "")
    assert (alone.env["SIDA_WORKERS"], alone.launches) == ("4", False)
    assert alone.resources()["limits"]["nvidia.com/gpu"] == 4
    light = pod_of("report", digits, load(divided(command, "processes: 4")), "")
    assert "SIDA_WORKERS" not in light.env and light.processes == 1


@pytest.mark.parametrize(
    ("division", "expected"),
    [
        ("processes: 3", "steps.distill.processes: method.batch 128 does not divide among 3 processes"),
        (
            "launcher: trainjob\n    nodes: 3\n    processes: 4",
            "steps.distill.nodes: 4 processes (`processes` of the profile) cannot be shared out over 3 nodes",
        ),
    ],
)
def test_a_division_that_does_not_come_out_even_is_refused_before_anything_is_sent(
    command: Command, division: str, expected: str
) -> None:
    said = command("compile", "digits", "--profile", divided(command, division))
    assert said.status == 2 and expected in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("profiled", [True, False])
def test_processes_of_the_recipe_that_make_no_groups_which_share_a_copy_are_refused_before_anything_is_sent(
    command: Command, tmp_path: Path, profiled: bool
) -> None:
    text = "extends: digits\nname: mine\ndescription: x\nexecution: {processes: 4, shard: full, shard_over: 3}\n"
    (mine := tmp_path / "of-three.yaml").write_text(text)
    said = command("compile", str(mine), *(("--profile", command.profile(*LAUNCHED)) if profiled else ()))
    expected = "execution.processes: 4 processes do not divide into groups of 3 that share a copy"
    assert said.status == 2 and expected in said.err and said.err.count("\n") == 1


def test_a_volume_is_mounted_by_the_launching_pod_and_on_every_node(command: Command) -> None:
    needs = "steps:\n  reference_statistics: {launcher: trainjob, volumes: [{claim: sets, path: /data}]}\n"
    said = command("compile", "digits", "--profile", command.profile(LAUNCHED[0], ("steps:\n", needs)))
    platform = list(yaml.safe_load_all(said.out))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert platform["exec-reference-statistics"]["pvcMount"][0]["constant"] == "sets"
    env = {item["name"]: item["value"] for item in container(said.out, "reference-statistics")["env"]}
    made = train_job(
        parse_target(env["SIDA_TRAINJOB"]), name="sida-x", step="s", run="r", folder="j", processes=2, threads=1
    )
    assert errors(made) == []
    (patch,) = made["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert {"name": "data-0", "persistentVolumeClaim": {"claimName": "sets", "readOnly": True}} in pod["volumes"]
    assert {"name": "data-0", "mountPath": "/data", "readOnly": True} in pod["containers"][0]["volumeMounts"]


CACHES = {
    "{size: 50Gi}": ({"emptyDir": {"sizeLimit": "50Gi"}}, str(45 * 2**30)),
    "{claim: shared}": ({"persistentVolumeClaim": {"claimName": "shared"}}, None),
    "{claim: shared, size: 100Gi}": ({"persistentVolumeClaim": {"claimName": "shared"}}, str(90 * 2**30)),
    "{size: 10Gi, storage_class: fast}": (
        {
            "ephemeral": {
                "volumeClaimTemplate": {
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "10Gi"}},
                        "storageClassName": "fast",
                    }
                }
            }
        },
        str(9 * 2**30),
    ),
}


@pytest.mark.parametrize("written", CACHES)
def test_a_cache_is_the_same_volume_in_every_kind_of_pod(command: Command, written: str) -> None:
    source, limit = CACHES[written]
    mine = command.profile(*LAUNCHED, ("  memory: 2Gi", f"  memory: 2Gi\n  cache: {written}"))
    said = command("compile", "digits", "--profile", mine)
    executors = list(yaml.safe_load_all(said.out))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    kinds = {"emptyDir": "emptyDirMounts", "persistentVolumeClaim": "pvcMount", "ephemeral": "genericEphemeralVolume"}
    (field,) = (kinds[kind] for kind in source)
    assert executors["exec-score"][field][0]["mountPath"] == "/tmp/cache"
    for light in ("exec-record-end", "exec-distill"):  # which only looks, and only follows
        assert not any(mount["mountPath"] == "/tmp/cache" for mount in executors[light].get(field, []))
    env = {item["name"]: item["value"] for item in container(said.out, "score")["env"]}
    assert (env["SIDA_CACHE"], env.get("SIDA_CACHE_BYTES")) == ("/tmp/cache", limit)

    launching = {item["name"]: item["value"] for item in container(said.out, "distill")["env"]}
    target = parse_target(launching["SIDA_TRAINJOB"])
    made = train_job(target, name="sida-x", step="distill", run="r", folder="j", processes=2, threads=1)
    assert errors(made) == []
    (patch,) = made["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    job = pod_of("score", recipe.load("digits"), load(mine), "").as_job([], [], {})
    for pod in (node["template"]["spec"]["template"]["spec"], job["template"]["spec"]):
        assert {"name": "cache"} | source in pod["volumes"]
        assert {"name": "cache", "mountPath": "/tmp/cache"} in pod["containers"][0]["volumeMounts"]
    for values in (made["spec"]["trainer"]["env"], job["template"]["spec"]["containers"][0]["env"]):
        assert {item["name"]: item.get("value") for item in values}.get("SIDA_CACHE_BYTES") == limit


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((LAUNCHED[1],), ["trainjob", "namespace"]),
        (
            (LAUNCHED[0], ("nvidia.com/gpu\n", "nvidia.com/gpu\n    launcher: kueue\n")),
            ["steps.distill.launcher", "'kueue'"],
        ),
        ((*LAUNCHED, ("nodes: 2", "nodes: 3")), ["steps.distill.nodes", "3 nodes"]),
        ((LAUNCHED[0], ("steps:\n", "steps:\n  compare: {launcher: trainjob}\n")), ["steps.compare.launcher", "light"]),
        ((LAUNCHED[0], ("queue: gpu", "que: gpu")), ["trainjob.que", "'queue'"]),
        ((LAUNCHED[0], ("queue: gpu", "priority_class: urgent")), ["trainjob.priority_class", "trainjob.queue"]),
    ],
)
def test_a_mistake_about_trainjobs_is_one_line_with_the_field(command: Command, changes: Any, words: list[str]) -> None:
    line = command("compile", "digits", "--profile", command.profile(*changes)).mistake()
    assert all(word in line for word in words), line


def test_without_the_trainer_or_the_runtime_nothing_is_submitted_or_scheduled(
    command: Command, kfp: Kfp, kube: Kube
) -> None:
    mine = command.profile(*LAUNCHED)
    kube.served = False
    line = command("submit", "digits", "--profile", mine).mistake()
    assert "distill: launcher: trainjob" in line and "trainer.kubeflow.org/v1alpha1" in line
    kube.served, kube.runtimes = True, set()
    line = command("schedule", "digits", "--profile", mine, "--cron", "0 3 * * 1").mistake()
    assert "no TrainingRuntime 'sida-torch' in namespace work" in line
    assert not kfp.requests
    kube.runtimes = {"sida-torch"}
    assert command("submit", "digits", "--profile", mine).status == 0


def test_where_the_cluster_cannot_be_reached_from_here_that_is_said_and_the_run_submitted(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(command.place / "nowhere"))
    said = command("submit", "digits", "--profile", command.profile(*LAUNCHED))
    assert said.status == 0
    assert "was not checked: no Kubernetes cluster is configured here" in said.err


def test_status_logs_and_cancel_reach_the_trainjob_of_the_run(command: Command, kfp: Kfp, kube: Kube) -> None:
    mine = command.profile(*LAUNCHED)
    kfp.story = [("RUNNING", {"distill": "RUNNING"})]
    command("submit", "digits", "--profile", mine)
    (run,) = kfp.runs
    target = Target(namespace=NAMESPACE, runtime="sida-torch", pod=Pod(image=IMAGE))
    name = job_name("distill", "jobs/x", "s3://b")
    made = train_job(target, name=name, step="distill", run=run, folder="jobs/x", processes=1, threads=1)
    kube.answer("POST", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs", {}, made)
    kube.counts(active=1, ready=1)
    assert "0 of 1 pods are there" in command("status", run, "--profile", mine).out
    assert "no log: it has not begun" in command("logs", run, "distill", "--profile", mine).mistake()
    kube.say(kube.pod(), "one", "two")
    assert f"RUNNING  TrainJob {name}: its pods run" in command("status", run, "--profile", mine).out
    assert command("logs", run, "distill", "--profile", mine).out == "one\ntwo\n"
    assert f"TrainJob {name}: deleted" in command("cancel", run, "--profile", mine).out
    assert not kube.objects["trainjobs"]


def test_the_log_of_a_job_that_has_ended_is_kept_in_the_store(place: Path) -> None:
    from pipeline.step_logs import kept_log

    store = open_store(f"file://{place / 'store'}")
    assert kept_log(store, "r-1", "distill") is None
    store.put("runs/r-1/jobs/distill.json", b'{"folder": "jobs/distill/abc/1"}')
    store.put("jobs/distill/abc/1/log.txt", b"one\ntwo\n")
    assert kept_log(store, "r-1", "distill") == "one\ntwo\n"


def test_runtime_prints_what_the_namespace_needs(command: Command) -> None:
    said = command("runtime", "--profile", command.profile(*LAUNCHED))
    runtime, role, *bindings = yaml.safe_load_all(said.out)
    assert errors(runtime) == []
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "trainer"  # by which network policies know it
    assert runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert role["rules"][0]["resources"] == ["trainjobs"]
    subjects = [(item["namespace"], item["name"]) for binding in bindings for item in binding["subjects"]]
    assert subjects == [("work", "runner"), ("kubeflow", "pipeline-runner")]  # rerun's Jobs, and the pods of KFP's runs
    users = command.profile(
        *LAUNCHED, ("  service_account: pipeline-runner", "  namespace: ann\n  service_account: editor")
    )
    *_, binding = yaml.safe_load_all(command("runtime", "--profile", users).out)
    assert (binding["subjects"][0]["namespace"], binding["subjects"][0]["name"]) == ("ann", "editor")
    assert "images.cpu is empty" in command("runtime", "--profile", command.profile(*LAUNCHED, (CPU, '""'))).mistake()
    assert "section trainjob" in command("runtime", "--profile", command.profile()).mistake()
