"""A plan as Argo Workflows takes it: one template a step, which runs ``sida step NAME``, and a DAG of them.

Addresses of manifests are output parameters; there are no artifacts. The first task looks results up, and a step whose result is
published gets no pod. Seen on Argo 4.0: an argument's expression is evaluated when the tasks that it may name are done or skipped.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components.around import LOOK_UP, RECORD_END, Task
from pipeline.plan import Plan
from pipeline.profile import READS, Profile
from sida.launch.pod import NO_SIDECAR, RESTRICTED, secret_key
from sida.launch.trainjob_manifest import PART, label
from sida.registry import STEPS
from sida.steps.execute import SCHEDULED

if TYPE_CHECKING:
    from pipeline.compile import OnCluster
    from pipeline.pod import StepPod
    from sida.records import StepCall

GROUP, VERSION = "argoproj.io", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
COMPONENT, RECIPE = "app.kubernetes.io/component", "sida/recipe"  # labels
OUTPUTS = "/tmp/outputs"  # noqa: S108 (in the pod)
ENTRY = "steps"
# Of Argo's own containers, whatever the controller's settings: Pod Security "restricted" and quotas ask for it.
AMOUNTS = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
ARGO_S = {"securityContext": RESTRICTED, "resources": AMOUNTS}
RUN = "{{workflow.name}}"
# A schedule's time, or that of a run that somebody started.
WHEN = "{{= workflow['scheduledTime'] ?? workflow.creationTimestamp.RFC3339 }}"


def tasks_of(plan: Plan) -> list[Task]:
    """Return the plan's tasks, each after those that it needs."""
    wiring, forced = plan.tasks(), plan.forced()

    def task(step: str, mark: str = "", made_by: tuple[str, ...] = ("",), **more: Any) -> Task:
        """Return a step's task; ``mark`` ends its name, and ``made_by`` the names of the tasks that it takes from."""
        inputs = {
            name: tuple(f"{dashed(source.partition('.')[0])}{one}" for one in made_by)
            for name, source in wiring[step].items()
        }
        fields: dict[str, Any] = {"recipe": "", "anew": step in forced, "one_of_many": False} | more
        return Task(name=f"{dashed(step)}{mark}", step=step, inputs=inputs, **fields)

    if not plan.published:
        return [task(step) for step in wiring]
    *each, table = wiring
    marks = {f"-{number:02}": recipe for number, recipe in enumerate(plan.published)}
    tasks = [
        task(step, mark, (mark,), recipe=recipe, anew=False, one_of_many=True)
        for mark, recipe in marks.items()
        for step in each
    ]
    return [*tasks, task(table, made_by=tuple(marks), anew=False)]


def workflow_template(plan: Plan, cluster: OnCluster, profile: Profile) -> dict[str, Any]:
    """Return the WorkflowTemplate; its name is the caller's, who knows its digest."""
    tasks = tasks_of(plan)
    steps = {task.step: task for task in tasks}
    templates = [_dag(tasks, plan), _look_up(tasks, cluster, profile)]
    templates += [_template(step, task, cluster.pod(step)) for step, task in steps.items()]
    templates.append(_record_end(cluster, profile))
    spec = _workflow(profile, templates, plan.recipe) | {
        "onExit": dashed(RECORD_END),
        "arguments": {
            "parameters": [{"name": "recipe", "value": plan.address}, {"name": "repeat", "value": SCHEDULED}]
        },
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkflowTemplate",
        "metadata": {
            "name": plan.pipeline,
            "namespace": profile.argo.namespace,
            "labels": _labels(plan.recipe),
            "annotations": {"workflows.argoproj.io/description": plan.description},
        },
        "spec": spec,
    }


def one_step(call: StepCall, arguments: list[str], cluster: OnCluster, profile: Profile) -> dict[str, Any]:
    """Return the spec of a Workflow that repeats a recorded step."""
    pod = cluster.pod(call.step)
    template = pod.as_template(["sida", "step", call.step], arguments, _part(call.step)) | {"name": dashed(call.step)}
    return _workflow(profile, [template], cluster.recipe.name) | {"entrypoint": dashed(call.step)}


def _workflow(profile: Profile, templates: list[dict[str, Any]], recipe: str) -> dict[str, Any]:
    """Return what all Workflows have in common."""
    options = profile.argo
    spec: dict[str, Any] = {
        "entrypoint": ENTRY,
        "executor": {"serviceAccountName": options.executor_account},
        "automountServiceAccountToken": False,
        "podGC": {"strategy": options.pod_gc},
        "ttlStrategy": {"secondsAfterCompletion": options.keep_seconds},
        "workflowMetadata": {"labels": _labels(recipe)},
        "podMetadata": {"labels": PART | NO_SIDECAR},
        "podSpecPatch": json.dumps(
            {"initContainers": [ARGO_S | {"name": "init"}], "containers": [ARGO_S | {"name": "wait"}]}
        ),
        "templates": templates,
    }
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.image_pull_secrets]
    if options.priority is not None:
        spec["priority"] = options.priority
    if options.priority_class:
        spec["podPriorityClassName"] = options.priority_class
    if options.semaphore is not None:
        at = {"name": options.semaphore.config_map, "key": options.semaphore.key}
        spec["synchronization"] = {"semaphores": [{"configMapKeyRef": at}]}
    return spec


# -- templates


def _dag(tasks: list[Task], plan: Plan) -> dict[str, Any]:
    look = {"name": dashed(LOOK_UP), "template": dashed(LOOK_UP)}
    template: dict[str, Any] = {"name": ENTRY, "dag": {"tasks": [look, *map(_task, tasks)]}}
    if plan.published:
        template["parallelism"] = 1  # of many generators one at a time
    return template


def _task(task: Task) -> dict[str, Any]:
    arguments = [{"name": "recipe", "value": task.recipe or "{{workflow.parameters.recipe}}"}]
    needs = [dashed(LOOK_UP)]
    for name, makers in task.inputs.items():
        for number, maker in enumerate(makers):
            value = f"{{{{= {_known(maker)} != '' ? {_known(maker)} : {_made(maker)} }}}}"
            arguments.append({"name": _numbered(name, number, makers), "value": value})
            needs.append(maker)
    arguments.append({"name": "attempt", "value": "new" if task.anew else ""})
    return {
        "name": task.name,
        "template": dashed(task.step),
        "depends": " && ".join(needs),
        "when": f"'{{{{tasks.{dashed(LOOK_UP)}.outputs.parameters.{task.name}}}}}' == ''",
        "arguments": {"parameters": arguments},
    }


def _known(task: str) -> str:
    return f"tasks['{dashed(LOOK_UP)}'].outputs.parameters['{task}']"


def _made(task: str) -> str:
    return f"tasks['{task}'].outputs.parameters['result']"


def _template(step: str, task: Task, pod: StepPod) -> dict[str, Any]:
    """Return the template of a step. ``task`` is one of its tasks: which inputs there are is the same for all of them."""
    flags = ["--recipe={{inputs.parameters.recipe}}", f"--run-id={RUN}", "--attempt={{inputs.parameters.attempt}}"]
    taken = ["recipe"]
    for name, makers in task.inputs.items():
        for number in range(len(makers)):
            taken.append(_numbered(name, number, makers))
            flags.append(f"--{dashed(name)}={{{{inputs.parameters.{taken[-1]}}}}}")
    if STEPS[step].measures:
        flags += _repeated()
    if task.one_of_many:
        flags.append("--one-of-many=true")
    flags.append(f"--outputs={OUTPUTS}")
    body = pod.as_template(["sida", "step", step], flags, _part(step))
    result = {"name": "result", "valueFrom": {"path": f"{OUTPUTS}/{STEPS[step].output_name}"}}
    return {
        "name": dashed(step),
        "inputs": {"parameters": [{"name": name} for name in [*taken, "attempt"]]},
        "outputs": {"parameters": [result]},
    } | body


def _look_up(tasks: list[Task], cluster: OnCluster, profile: Profile) -> dict[str, Any]:
    """Return the first task's template; it reads what the steps read, to know their keys."""
    pod = cluster.pod(LOOK_UP)
    volumes = {volume.path: volume for step in dict.fromkeys(READS.values()) for volume in cluster.pod(step).volumes}
    listed = json.dumps([task.model_dump(mode="json") for task in tasks], separators=(",", ":"))
    flags = ["--recipe={{workflow.parameters.recipe}}", f"--run-id={RUN}", f"--tasks={listed}", f"--outputs={OUTPUTS}"]
    light = pod.model_copy(update={"volumes": tuple(volumes.values())})
    outputs = [{"name": task.name, "valueFrom": {"path": f"{OUTPUTS}/{task.name}"}} for task in tasks]
    body = light.as_template(["sida", "step", LOOK_UP], [*flags, *_repeated()], _part(LOOK_UP))
    return {"name": dashed(LOOK_UP), "outputs": {"parameters": outputs}} | body


def _record_end(cluster: OnCluster, profile: Profile) -> dict[str, Any]:
    pod = cluster.pod(RECORD_END)
    if (webhook := profile.webhook) is not None:
        pod = pod.model_copy(update={"env": pod.env | {"SIDA_WEBHOOK": secret_key(webhook.secret, webhook.key)}})
    flags = ["--recipe={{workflow.parameters.recipe}}", f"--run-id={RUN}"]
    flags += ["--state={{workflow.status}}", "--failures={{workflow.failures}}"]
    return {"name": dashed(RECORD_END)} | pod.as_template(["sida", "step", RECORD_END], flags, _part(RECORD_END))


def _repeated() -> list[str]:
    return ["--repeat={{workflow.parameters.repeat}}", f"--scheduled={WHEN}"]


def _numbered(name: str, number: int, makers: tuple[str, ...]) -> str:
    """Return an input's name; those of a list are counted."""
    return f"{name}-{number:02}" if len(makers) > 1 else name


def _labels(recipe: str) -> dict[str, str]:
    return PART | {RECIPE: label(recipe)}


def _part(step: str) -> dict[str, str]:
    return PART | {COMPONENT: dashed(step)}


def dashed(name: str) -> str:
    """Return a step's name as Kubernetes takes it."""
    return name.replace("_", "-")
