"""Compiled for Argo Workflows: command lines that steps take, inputs that come from somewhere, pods that may run, retries."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
import yaml

from components import around
from components.__main__ import Parser, parser_of
from components.interface import outputs_of
from pipeline.compile import Compiled, OnCluster, compiled, plan_for
from pipeline.engines.argo_template import one_step
from pipeline.profile import Argo, Profile, Semaphore, StepNeeds, TrainJobs, Volume, Webhook, load
from sida import recipe
from sida.launch.target import parse_target
from sida.registry import STEPS
from tests.launch.argo_crds import errors
from tests.manifests.pod_security import violations
from tests.pipeline.command import PROFILE
from tests.pipeline.test_rerun import call_of_score
from tests.pipeline.test_trainjobs import LAUNCHED

Template = dict[str, Any]
MANY = "cifar10-uncond"


def profile(**changes: Any) -> Profile:
    return load(str(PROFILE)).model_copy(update={"engine": "argo", **changes})


def compile_argo(
    name: str = "digits", pipeline: str = "reproduce", force: tuple[str, ...] = (), **changes: Any
) -> Compiled:
    loaded, of = recipe.load(name), profile(**changes)
    return compiled(plan_for(name, loaded, pipeline, force, of), OnCluster(loaded, of, "cluster.yaml"))


def spec_of(*given: Any, **changes: Any) -> dict[str, Any]:
    return dict(yaml.load(compile_argo(*given, **changes).text, yaml.CSafeLoader)["spec"])


PLANS = {
    "digits": ("digits",),
    "its own teacher": ("digits-full",),
    "from a generator": ("cifar10-uncond-sid2a",),
    "many generators": (MANY, "score_published"),
}


@cache
def planned(name: str) -> dict[str, Any]:
    return spec_of(*PLANS[name])


@pytest.fixture(params=PLANS)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each kind of DAG in turn."""
    return planned(request.param)


def templates(spec: dict[str, Any]) -> dict[str, Template]:
    return {template["name"]: template for template in spec["templates"]}


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in templates(spec)["steps"]["dag"]["tasks"]}


def pods(spec: dict[str, Any]) -> dict[str, Template]:
    return {name: template for name, template in templates(spec).items() if "container" in template}


def arguments(task: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in task.get("arguments", {}).get("parameters", [])}


def inputs(template: Template) -> list[str]:
    return [one["name"] for one in template.get("inputs", {}).get("parameters", [])]


def needs(task: dict[str, Any]) -> set[str]:
    return set(task["depends"].split(" && ")) if "depends" in task else set()


def all_objects() -> list[dict[str, Any]]:
    """Objects with everything in them that we ever send."""
    from pipeline.engines.argo import ArgoClient
    from pipeline.engines.base import Version

    options = Argo(priority=1, priority_class="low", semaphore=Semaphore(config_map="limits", key="runs"))
    reads = StepNeeds(volumes=(Volume(claim="datasets", path="/data", folder="x"),), retries=0)
    of = profile(
        argo=options, webhook=Webhook(secret="sida-webhook"), steps=load(str(PROFILE)).steps | {"prepare_data": reads}
    )
    launched = StepNeeds(launcher="trainjob", nodes=2)
    of = of.model_copy(update={"trainjob": TrainJobs(namespace="work"), "steps": of.steps | {"score": launched}})
    loaded = recipe.load("digits")
    whole = yaml.load(compiled(plan_for("digits", loaded), OnCluster(loaded, of, "x")).text, yaml.CSafeLoader)
    sent: list[dict[str, Any]] = [whole]

    class Kept:
        namespace, host, workflow = "sida", "https://cluster", {"spec": {}, "status": {"phase": "Running"}}

        def create_object(self, plural: str, manifest: dict[str, Any]) -> None:
            sent.append(manifest)

    client = ArgoClient.__new__(ArgoClient)
    client.__dict__.update(_profile=of, _options=options, _cluster=Kept(), place="x")
    version = Version("sida-digits-0123456789ab", "sida-digits-0123456789ab", new=False)
    client.start("digits", version, {"recipe": "digits", "repeat": "reuse"})
    for step in ("score", "distill", "prepare_data", "fetch_teacher"):
        client.start_step(call_of_score(step=step), f"{step} again", ["--recipe=digits"], OnCluster(loaded, of, "x"))
    target = client.schedule("sida-digits", "0 3 * * 1", version, {"recipe": "digits", "repeat": "scheduled"})
    client.put_schedule(target, [], None, version, "a description")
    return sent


def test_argo_s_own_schemas_know_every_field_that_is_sent() -> None:
    sent = all_objects()
    assert [thing["kind"] for thing in sent] == ["WorkflowTemplate", *["Workflow"] * 5, "CronWorkflow"]
    assert [wrong for thing in sent for wrong in errors(thing)] == []
    sent[0]["spec"]["templates"][1]["container"]["comand"] = ["x"]
    sent[-1]["spec"]["suspend"] = "no"
    assert ["comand" in str(errors(sent[0])), "suspend" in str(errors(sent[-1]))] == [True, True]


# -- what a step is started with


def test_every_step_s_command_line_is_one_that_it_takes(spec: dict[str, Any]) -> None:
    for name, template in pods(spec).items():
        *command, step = template["container"]["command"]
        assert command == ["sida", "step"] and step.replace("_", "-") == name
        flags = [re.sub(r"\{\{.*?\}\}", "a-value", flag) for flag in template["container"]["args"]]
        assert all(flag.startswith("--") and "=" in flag for flag in flags)
        if step in around.HELP:
            parser = Parser()
            around.arguments_of(step, parser)
        else:
            parser = parser_of(STEPS[step])
        given = vars(parser.parse_args(flags))
        assert given["recipe"] == given["run_id"] == "a-value"
        if step in STEPS:
            (result,) = template["outputs"]["parameters"]
            assert result["name"] == "result"
            assert result["valueFrom"]["path"] == f"{given['outputs']}/{outputs_of(STEPS[step])[0].name}"


def test_a_task_passes_what_its_template_takes_and_the_container_uses_all_of_it(spec: dict[str, Any]) -> None:
    for task in tasks(spec).values():
        template = templates(spec)[task["template"]]
        assert list(arguments(task)) == inputs(template)
        used = re.findall(r"\{\{inputs\.parameters\.([\w-]+)\}\}", json.dumps(template["container"]))
        assert set(used) == set(inputs(template))
    assert {task["template"] for task in tasks(spec).values()} == set(pods(spec)) - {"record-end"}


def test_a_task_comes_after_all_that_it_names_and_reads_outputs_that_are_there(spec: dict[str, Any]) -> None:
    seen: set[str] = set()
    for name, task in tasks(spec).items():
        assert needs(task) <= seen, "a task stands after those it needs"
        text = json.dumps([task.get("when", ""), arguments(task)])
        read = set(re.findall(r"tasks\['([\w-]+)'\]\.outputs\.parameters\['([\w-]+)'\]", text))
        read |= set(re.findall(r"\{\{tasks\.([\w-]+)\.outputs\.parameters\.([\w-]+)\}\}", text))
        assert {maker for maker, _ in read} == needs(task)
        for maker, output in read:
            made = templates(spec)[tasks(spec)[maker]["template"]]["outputs"]["parameters"]
            assert output in [one["name"] for one in made]
        seen.add(name)
    assert "onExit" in spec and spec["onExit"] in templates(spec)


def test_the_first_task_looks_up_each_of_the_others_and_a_result_that_is_there_is_used(spec: dict[str, Any]) -> None:
    first, *others = tasks(spec).values()
    assert first["name"] == "look-up"
    look_up = templates(spec)["look-up"]
    told = [one["name"] for one in look_up["outputs"]["parameters"]]
    assert told == [task["name"] for task in others]
    (given,) = (flag for flag in look_up["container"]["args"] if flag.startswith("--tasks="))
    listed = around._tasks(given.removeprefix("--tasks="))
    assert [task.name for task in listed] == told
    for task, same in zip(others, listed, strict=True):
        assert task["when"] == f"'{{{{tasks.look-up.outputs.parameters.{task['name']}}}}}' == ''"
        assert same.step.replace("_", "-") == task["template"]
        assert {maker for makers in same.inputs.values() for maker in makers} | {"look-up"} == needs(task)
        assert same.recipe == arguments(task)["recipe"].replace("{{workflow.parameters.recipe}}", "")


def test_forced_steps_and_all_after_them_are_made_anew_and_not_looked_up() -> None:
    spec = spec_of(force=("distill",))
    attempts = {name: arguments(task).get("attempt") for name, task in tasks(spec).items() if name != "look-up"}
    assert [name for name, attempt in attempts.items() if attempt == "new"] == ["distill", "score", "compare", "report"]
    (given,) = (flag for flag in templates(spec)["look-up"]["container"]["args"] if flag.startswith("--tasks="))
    anew = [task["name"] for task in json.loads(given.removeprefix("--tasks=")) if task["anew"]]
    assert anew == ["distill", "score", "compare", "report"]


def test_a_run_s_parameters_are_recipe_and_repeat_and_only_what_measures_takes_the_time() -> None:
    spec = planned("digits")
    given = {one["name"]: one["value"] for one in spec["arguments"]["parameters"]}
    assert given == {"recipe": "digits", "repeat": "scheduled"}
    repeated = {name for name, pod in pods(spec).items() if "--scheduled=" in " ".join(pod["container"]["args"])}
    assert repeated == {"look-up", "score-teacher", "score"}
    for name in repeated:
        args = pods(spec)[name]["container"]["args"]
        assert "--repeat={{workflow.parameters.repeat}}" in args
        assert any("workflow['scheduledTime']" in flag and "creationTimestamp" in flag for flag in args)


def test_of_many_generators_each_has_its_own_tasks_one_at_a_time_and_a_failure_is_passed_on() -> None:
    spec = planned("many generators")
    plan = plan_for(MANY, recipe.load(MANY), "score_published")
    assert len(plan.published) > 1
    assert templates(spec)["steps"]["parallelism"] == 1
    of_each = ("fetch-released", "score-data", "reference-statistics", "score")
    for number, name in enumerate(plan.published):
        for step in of_each:
            assert arguments(tasks(spec)[f"{step}-{number:02}"])["recipe"] == name
    for step in of_each:
        assert "--one-of-many=true" in pods(spec)[step]["container"]["args"]
    table = tasks(spec)["published-table"]
    scores = [name for name in arguments(table) if name.startswith("scores")]
    assert scores == [f"scores-{number:02}" for number in range(len(plan.published))]
    args = pods(spec)["published-table"]["container"]["args"]
    assert [flag for flag in args if flag.startswith("--scores=")] == [
        f"--scores={{{{inputs.parameters.{name}}}}}" for name in scores
    ]
    assert "--one-of-many=true" not in args


# -- pods


def test_every_pod_may_run_where_restricted_is_enforced_argo_s_own_containers_included(spec: dict[str, Any]) -> None:
    patch = json.loads(spec["podSpecPatch"])
    assert spec["automountServiceAccountToken"] is False
    for name, template in pods(spec).items():
        init, wait = patch["initContainers"], patch["containers"]
        assert [one["name"] for one in (*init, *wait)] == ["init", "wait"]
        pod = {key: template[key] for key in ("securityContext", "volumes")}
        pod |= {"initContainers": init, "containers": [template["container"], *wait]}
        assert violations({"spec": pod}) == [], name
        assert template["container"]["name"] == "main"
        assert json.loads(template["podSpecPatch"]) == {"terminationGracePeriodSeconds": 120}
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == name


def test_environment_images_and_secrets_are_the_profile_s_and_no_secret_s_value_is_there() -> None:
    for name, template in pods(planned("digits")).items():
        container, cuda = template["container"], name == "distill"
        assert container["image"] == f"registry.test/sida{'-cuda' * cuda}@sha256:{('2' if cuda else '1') * 64}"
        env = {one["name"]: one for one in container["env"]}
        assert env["SIDA_STORE"]["value"] == "s3://bucket/sida"
        for variable, key in (("AWS_ACCESS_KEY_ID", "access-key"), ("AWS_SECRET_ACCESS_KEY", "secret-key")):
            assert env[variable] == {
                "name": variable,
                "valueFrom": {"secretKeyRef": {"name": "sida-store", "key": key}},
            }
    distill = pods(planned("digits"))["distill"]
    assert distill["nodeSelector"] == {"pool": "gpu"}
    assert distill["container"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert distill["activeDeadlineSeconds"] == 86400


def test_the_webhook_s_address_reaches_the_exit_handler_alone() -> None:
    spec = spec_of(webhook=Webhook(secret="sida-webhook"))
    with_it = [name for name, template in pods(spec).items() if "sida-webhook" in json.dumps(template)]
    assert with_it == ["record-end"]


def test_the_exit_handler_is_told_state_and_failures_and_has_retries_of_its_own() -> None:
    spec = planned("digits")
    assert spec["onExit"] == "record-end"
    args = pods(spec)["record-end"]["container"]["args"]
    assert args[-2:] == ["--state={{workflow.status}}", "--failures={{workflow.failures}}"]
    assert pods(spec)["record-end"]["retryStrategy"]["limit"] == "2"


def test_a_step_whose_heavy_part_is_a_trainjob_has_a_token_and_no_deadline(tmp_path: Any) -> None:
    text = PROFILE.read_text()
    for old, new in LAUNCHED:
        text = text.replace(old, new)
    (tmp_path / "mine.yaml").write_text(text)
    of = load(str(tmp_path / "mine.yaml")).model_copy(update={"engine": "argo"})
    loaded = recipe.load("digits")
    made = yaml.safe_load(compiled(plan_for("digits", loaded), OnCluster(loaded, of, "mine")).text)["spec"]
    tokens = {name for name, pod in pods(made).items() if "automountServiceAccountToken" in pod["podSpecPatch"]}
    assert tokens == {"distill"}
    assert json.loads(pods(made)["distill"]["podSpecPatch"])["automountServiceAccountToken"] is True
    distill = pods(made)["distill"]
    assert "activeDeadlineSeconds" not in distill and "nodeSelector" not in distill
    env = {one["name"]: one.get("value", "") for one in distill["container"]["env"]}
    assert parse_target(env["SIDA_TRAINJOB"]).nodes == 2


# -- what happens around


@pytest.mark.parametrize(
    ("exit_code", "message", "again"),
    [
        ("1", "main: Error (exit code 1)", True),
        ("75", "main: Error (exit code 75)", True),  # what it needs was away
        ("143", "main: Error (exit code 143)", True),
        ("-1", "pod deleted", True),
        ("2", "main: Error (exit code 2)", False),  # a user's mistake
        ("137", "main: OOMKilled (exit code 137)", False),
        ("143", "Pod was active on the node longer than the specified deadline", False),
    ],
)
def test_what_passes_is_tried_again_and_what_would_end_the_same_is_not(
    exit_code: str, message: str, again: bool
) -> None:
    strategy = pods(planned("digits"))["fetch-teacher"]["retryStrategy"]
    assert strategy["limit"] == "2" and strategy["retryPolicy"] == "Always"
    assert strategy["backoff"] == {"duration": "30s", "factor": "2"}
    rule = strategy["expression"].replace("lastRetry.exitCode", repr(exit_code))
    rule = re.sub(r"!\(lastRetry\.message contains ('\w+')\)", rf"(\1 not in {message!r})", rule).replace("&&", "and")
    assert eval(rule) is again


def test_no_retries_are_said_so_that_a_controller_s_defaults_add_none() -> None:
    spec = spec_of(default=StepNeeds(retries=0))
    assert all(template["retryStrategy"] == {"limit": "0"} for template in pods(spec).values())


def test_priorities_semaphores_and_pull_secrets_are_there_where_a_profile_names_them() -> None:
    plain = spec_of(image_pull_secrets=())
    for name in ("imagePullSecrets", "priority", "podPriorityClassName", "synchronization"):
        assert name not in plain
    assert plain["ttlStrategy"] == {"secondsAfterCompletion": 7 * 86400}
    assert plain["podGC"] == {"strategy": "OnWorkflowSuccess"}
    options = Argo(
        namespace="team",
        executor_account="runner",
        keep_seconds=60,
        pod_gc="OnPodCompletion",
        priority=5,
        priority_class="low",
        semaphore=Semaphore(config_map="limits", key="gpus"),
    )
    whole = yaml.safe_load(compile_argo(argo=options).text)
    spec = whole["spec"]
    assert whole["metadata"]["namespace"] == "team"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert (spec["priority"], spec["podPriorityClassName"]) == (5, "low")
    where = {"configMapKeyRef": {"name": "limits", "key": "gpus"}}
    assert spec["synchronization"] == {"semaphores": [where]}
    assert spec["ttlStrategy"] == {"secondsAfterCompletion": 60}
    assert spec["podGC"] == {"strategy": "OnPodCompletion"}
    assert spec["executor"] == {"serviceAccountName": "runner"}
    assert not [template for template in spec["templates"] if "imagePullSecrets" in template]


def test_the_name_holds_the_digest_of_what_it_says_and_is_a_label() -> None:
    first, other = compile_argo(), compile_argo(default=StepNeeds(memory="3Gi"))
    assert first.version != other.version
    assert yaml.safe_load(first.text)["metadata"]["name"] == first.version
    longest = compile_argo("cifar10-uncond-sid2a-alpha12-tf32", "score_published")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])", longest.version)
    assert longest.version.endswith(longest.digest[:12])
    assert len(longest.text) < 500_000  # etcd keeps 1.5 MB, and a Workflow holds a copy


def test_a_recorded_step_is_a_workflow_of_one_template_that_takes_its_flags() -> None:
    call, of = call_of_score(), profile()
    flags = ["--recipe=digits", "--generator=s3://x", "--reference=s3://y", "--run-id=r"]
    spec = one_step(call, flags, OnCluster(recipe.load("digits"), of, "cluster.yaml"), of)
    (template,) = spec["templates"]
    assert spec["entrypoint"] == template["name"] == "score"
    assert template["container"]["command"] == ["sida", "step", "score"]
    assert template["container"]["args"] == flags
    assert spec["ttlStrategy"] and spec["podSpecPatch"] and "onExit" not in spec
