"""Compiling for Kubeflow: the checked-in copies, and what recipe and profile decide.

After a change of the pipeline: ``python -m tests.pipeline.test_compile`` writes the copies anew; read the difference.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml

from pipeline.compile import Compiled, OnCluster, compiled, plan_for
from pipeline.profile import load
from scripts.lock import LOCK
from sida import recipe
from sida.steps.recipes import recipe_key
from tests.pipeline.command import PROFILE, Command
from tests.pipeline.kfp_server import check_pipeline

COPIES = Path(__file__).resolve().parents[2] / "compiled"
TEXTS = {
    "digits.yaml": lambda: digits(profile=False).text,
    "digits.kubernetes.yaml": lambda: digits(profile=False, kubernetes=True).text,
    "digits.test-cluster.yaml": lambda: digits().text,
    "imagenet-512-edm2-s.test-cluster.yaml": lambda: (
        digits("imagenet-512-edm2-s").text
    ),  # one published recipe stands for all
    "digits.argo.yaml": lambda: digits(engine="argo").text,
}


def digits(
    name: str = "digits", *, profile: bool = True, kubernetes: bool = False, engine: str = "kubeflow"
) -> Compiled:
    loaded = recipe.load(name)
    of = load(str(PROFILE)).model_copy(update={"engine": engine}) if profile else None
    cluster = OnCluster(loaded, of, "cluster.yaml")
    return compiled(plan_for(name, loaded), cluster, kubernetes=kubernetes)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(digits().text))


@pytest.mark.parametrize("name", TEXTS)
def test_the_compiled_pipelines_are_those_that_are_checked_in(name: str) -> None:
    text, copy = TEXTS[name](), (COPIES / name).read_text()
    if f"\nkfp=={kfp.__version__} " not in LOCK.read_text():  # another kfp names itself, also in a digest of the text
        text, copy = (re.sub(r"(sdkVersion: kfp-|[nN]ame: sida-digits-)\S+", r"\1", each) for each in (text, copy))
    assert text == copy, "python -m tests.pipeline.test_compile writes them anew"


def test_kfp_s_own_messages_accept_the_pipeline(documents: list[dict[str, Any]]) -> None:
    check_pipeline(documents)


def test_images_environment_and_secrets_of_every_task_are_the_profile_s(documents: list[dict[str, Any]]) -> None:
    spec, platform = documents
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        container = executor["container"]
        cuda = name == "exec-distill"
        assert container["image"] == f"registry.test/sida{'-cuda' * cuda}@sha256:{('2' if cuda else '1') * 64}"
        env = {item["name"]: item["value"] for item in container["env"]}
        assert env == {
            "SIDA_STORE": "s3://bucket/sida",
            "AWS_REGION": "eu-central-1",
            "SIDA_IMAGE": container["image"],
            "SIDA_LEASE_WAIT": "120",  # Argo starts another pod for a lost one at once
            "SIDA_PATIENCE": "15m",
        }
        pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]
        keys = {pair["envVar"]: pair["secretKey"] for secret in pod["secretAsEnv"] for pair in secret["keyToEnv"]}
        assert keys == {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
    assert len(executors) == 9  # eight steps and the exit handler


def test_resources_follow_the_recipe_s_processes_and_the_profile_s_nodes(documents: list[dict[str, Any]]) -> None:
    spec, platform = documents
    executors = spec["deploymentSpec"]["executors"]
    asked = executors["exec-distill"]["container"]["resources"]
    assert asked["resourceCpuRequest"] == "2"  # two processes of one thread
    assert not any("resourceCpuLimit" in executor["container"]["resources"] for executor in executors.values())
    assert (asked["accelerator"]["resourceType"], asked["accelerator"]["resourceCount"]) == ("nvidia.com/gpu", "2")
    assert asked["resourceMemoryLimit"] == "64Gi"
    assert "accelerator" not in executors["exec-compare"]["container"]["resources"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-distill"]
    assert pod["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    shm = {"mountPath": "/dev/shm", "volumeName": "shm", "medium": "Memory", "sizeLimit": "8Gi"}
    assert pod["emptyDirMounts"] == [shm]
    assert pod["activeDeadlineSeconds"] == "86400"


def test_cpu_is_limited_where_the_profile_asks_for_it(command: Command) -> None:
    mine = command.profile(("  distill:\n", "  distill:\n    cpu: '1'\n    cpu_limit: 1500m\n"))
    spec = next(yaml.safe_load_all(command("compile", "digits", "--profile", mine).out))
    asked = {name: made["container"]["resources"] for name, made in spec["deploymentSpec"]["executors"].items()}
    assert (asked["exec-distill"]["resourceCpuRequest"], asked["exec-distill"]["resourceCpuLimit"]) == ("1", "1500m")
    assert [name for name, amounts in asked.items() if "resourceCpuLimit" in amounts] == ["exec-distill"]


def test_a_recipe_s_files_are_read_from_volumes_and_refused_where_none_brings_them(command: Command) -> None:
    mine = command.place / "mine-data.yaml"
    mine.write_text("extends: cifar10-uncond\nname: mine-data\ndataset: {source: folder, address: /data/a b/images}\n")
    line = command("compile", str(mine), "--profile", command.profile()).mistake()
    assert all(word in line for word in ("dataset.address file:///data/a%20b/images", "steps.prepare_data.volumes"))
    for path, reached in (("/data", True), ("/data/a b", True), ("/data/a", False), ("/else", False)):
        volume = f"steps:\n  prepare_data: {{volumes: [{{claim: sets, path: '{path}', folder: v2}}]}}\n"
        said = command("compile", str(mine), "--profile", command.profile(("steps:\n", volume)))
        assert (said.status == 0) == reached, said
        if reached:
            _, platform = yaml.safe_load_all(said.out)
            pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
            (mount,) = pods["exec-prepare-data"]["pvcMount"]
            assert (mount["mountPath"], mount["subPath"], mount["constant"]) == (path, "v2", "sets")
            assert [name for name, pod in pods.items() if "pvcMount" in pod] == ["exec-prepare-data"]


def test_every_file_that_a_run_reads_is_looked_at_before_it_is_submitted(command: Command) -> None:
    for section in ("reference", "precision_recall_reference"):
        mine = command.place / "mine-statistics.yaml"
        mine.write_text(f"extends: cifar10-uncond\nname: mine\nevaluation: {{{section}: {{address: /data/it.npz}}}}\n")
        line = command("compile", str(mine), "--profile", command.profile()).mistake()
        assert f"evaluation.{section}.address file:///data/it.npz" in line
        assert "steps.reference_statistics.volumes" in line


def test_steps_are_retried_and_never_cached_and_an_exit_handler_records_the_end(
    documents: list[dict[str, Any]],
) -> None:
    spec = documents[0]
    inner = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    outer = spec["root"]["dag"]["tasks"]
    steps = [*inner.values(), outer["record-end"]]
    assert not any(task["cachingOptions"] for task in steps)
    assert all(task["retryPolicy"]["maxRetryCount"] == 2 for task in steps)
    assert all(
        task["inputs"]["parameters"]["run_id"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"
        for task in steps
    )
    scheduled = {
        "runtimeValue": {"constant": "{{$.pipeline_job_schedule_time_utc}}"}
    }  # of its own: resolved there alone
    timed = [name for name, task in inner.items() if task["inputs"]["parameters"].get("scheduled") == scheduled]
    assert timed == ["score", "score-teacher"]
    assert outer["record-end"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_the_parameters_of_a_run_are_typed_and_explained(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"recipe", "repeat"}
    assert parameters["recipe"]["defaultValue"] == "digits"
    assert parameters["repeat"]["defaultValue"] == "scheduled"  # of recurring runs made in Kubeflow's own pages
    assert documents[0]["root"]["dag"]["tasks"]["exit-handler-1"]["taskInfo"]["name"] == "digits (SiDA)"
    assert all(len(given["description"]) > 20 and given["parameterType"] == "STRING" for given in parameters.values())


def test_kubernetes_objects_are_a_pipeline_and_a_version_named_by_its_digest(command: Command) -> None:
    said = command("compile", "digits", "--profile", command.profile(), "--kubernetes")
    pipeline, version = yaml.safe_load_all(said.out)
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {pipeline["apiVersion"], version["apiVersion"]} == {"pipelines.kubeflow.org/v2beta1"}
    assert version["metadata"]["name"] == digits().version
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "sida-digits"


def test_compile_writes_a_file_and_says_that_without_a_profile_it_cannot_be_run(command: Command) -> None:
    path = command.place / "out.yaml"
    said = command("compile", "digits", "--output", str(path))
    assert said.status == 0
    assert "placeholder" in said.err
    assert path.read_text() == (COPIES / "digits.yaml").read_text()


def test_released_generators_have_a_pipeline_of_their_own_that_a_schedule_can_repeat(command: Command) -> None:
    said = command("compile", "cifar10-uncond", "--pipeline", "score_published", "--profile", command.profile())
    assert said.status == 0, said.err
    spec = next(yaml.safe_load_all(said.out))
    assert spec["pipelineInfo"]["name"] == "sida-cifar10-uncond-score-published"
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {"recipe", "repeat"}
    text = json.dumps(spec)
    for name in ("cifar10-uncond-sid", "cifar10-uncond-sid2a", "cifar10-uncond-sid2a-alpha12"):
        assert name in text  # both files that could be the paper's best
    for step in ("fetch-released", "score-data", "reference-statistics", "score", "published-table"):
        assert f"exec-{step}" in spec["deploymentSpec"]["executors"]
    assert "released" in command("compile", "digits", "--pipeline", "score_published").mistake()


# -- a user's own recipe


def own(command: Command, **changes: Any) -> str:
    """The digits recipe with a teacher and a detector that a pod can read."""
    fields = json.loads(recipe.load("digits").model_dump_json())
    fields["name"] = "mine"
    fields["teacher"]["address"] = "s3://bucket/teacher.safetensors"
    fields["evaluation"]["detector"]["address"] = "s3://bucket/detector.safetensors"
    path = command.place / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields | changes))
    return str(path)


def test_a_recipe_of_one_s_own_travels_by_address_and_digest(command: Command) -> None:
    said = command("compile", own(command), "--profile", command.profile())
    parameters = next(yaml.safe_load_all(said.out))["root"]["inputDefinitions"]["parameters"]
    address = parameters["recipe"]["defaultValue"]
    name, _, digest = address.partition("#sha256=")
    assert (name, recipe_key(address)) == ("mine", f"objects/{digest[:2]}/{digest}.json")
    old = f"objects/{digest[:2]}/{digest}.json"  # as records of earlier versions have it
    assert recipe_key(f"{old}#sha256={digest}") == old


def test_a_recipe_that_names_a_file_of_this_machine_is_refused(command: Command) -> None:
    teacher = {**recipe.load("digits").teacher.model_dump(mode="json"), "address": "file:///tmp/teacher.safetensors"}
    line = command("compile", own(command, teacher=teacher), "--profile", command.profile()).mistake()
    assert "teacher.address" in line and "s3://" in line
    data = {"source": "folder", "address": "/tmp", "licence": "-", "resolution": 8, "channels": 1, "classes": 10}
    line = command("compile", own(command, dataset=data), "--profile", command.profile()).mistake()
    assert "dataset.address" in line and "one zip or tar" in line


def test_a_recipe_whose_data_are_nowhere_is_refused_before_it_is_sent(command: Command) -> None:
    line = command("compile", "ffhq-64", "--profile", command.profile()).mistake()
    assert "dataset.address is missing" in line and "docs/benchmarks.md" in line


def test_a_recipe_over_100_kb_is_refused(command: Command) -> None:
    line = command("compile", own(command, description="x" * 100_001), "--profile", command.profile()).mistake()
    assert "100,000" in line


def test_a_recipe_with_a_presigned_address_is_refused_without_showing_it(command: Command) -> None:
    address = "https://host/teacher?X-Amz-Signature=verysecret"
    teacher = {**recipe.load("digits").teacher.model_dump(mode="json"), "address": address}
    line = command("compile", own(command, teacher=teacher), "--profile", command.profile()).mistake()
    assert "teacher.address" in line and "verysecret" not in line


def test_an_unknown_pipeline_is_refused_with_those_there_are(command: Command) -> None:
    assert "reproduce" in command("compile", "digits", "--pipeline", "reproduced").mistake()


if __name__ == "__main__":
    COPIES.mkdir(exist_ok=True)
    for file, text in TEXTS.items():
        (COPIES / file).write_text(text())
