"""One step of a recorded run, again: as a Kubernetes Job, as a run of one step, or here.

The command is a template, ``sida step STEP --flag=value ...``, filled from typed fields of the record; the image is one
that the profile allows. Nothing that a record says is ever a command, a variable or a shell's text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from components.interface import parameters_of
from pipeline.pod import StepPod, image_of, pod_of
from pipeline.profile import Profile, check_image
from sida.errors import NotFound, UserError
from sida.launch.pod import Variables
from sida.launch.trainjob_manifest import PART, label, queue_labels
from sida.printing import one_line
from sida.recipe import Recipe
from sida.records import StepCall, digest_of_input
from sida.registry import STEPS
from sida.stores import read_address

CONFIG_MAP = "sida-rerun"  # names the run that a CronJob's Job repeats
MOST_TEXT = 10_000  # characters of a flag
NEVER = "0 0 31 2 *"  # CronJobs need a schedule; theirs are suspended, and there is no such day


def arguments(call: StepCall, *, force: bool) -> list[str]:
    """The step's flags as ``--flag=value``. Raises UserError for a record that does not fit the step as it is now."""
    if call.step not in STEPS:
        raise UserError(f"run {call.run}: this version has no step {call.step!r}: submit again")
    parameters = {parameter.name: parameter for parameter in parameters_of(STEPS[call.step])}
    values = [("recipe", call.recipe), ("run_id", call.run)]
    values += [(name.partition(".")[0], read.address) for name, read in sorted(call.inputs.items())]  # scores.00, ...
    values += [(name, text) for name, text in call.parameters.items() if name != "attempt"]
    if force:
        values.append(("attempt", "new"))
    given = [name for name, _ in values]
    for name in given:
        if name not in parameters:
            raise UserError(
                f"run {call.run}, {call.step}: the record's {name!r} is no input of this version's step: submit again"
            )
    for name, parameter in parameters.items():
        if not parameter.optional and name not in given:
            raise UserError(
                f"run {call.run}, {call.step}: the record has no {name!r}, which this version needs: submit again"
            )
    for name, value in values:  # Kubernetes expands the one, KFP and Argo the other
        if "$(" in value or "{{" in value:
            raise UserError(
                f"run {call.run}, {call.step}: the record's {name} {one_line(value, 80)!r} holds a placeholder; not used"
            )
        if (
            not value.isprintable() or len(value) > MOST_TEXT
        ):  # no recipe, address or mark of ours; some cannot be a flag
            raise UserError(
                f"run {call.run}, {call.step}: the record's {name} {one_line(value, 80)!r} is no line of text; not used"
            )
    return [f"--{name.replace('_', '-')}={value}" for name, value in values if value]


def check_inputs(call: StepCall) -> None:
    """Every input is still there and is what the run read. Raises UserError that says what to run first."""
    for name, given in call.inputs.items():
        try:
            content = read_address(given.address)
        except NotFound:
            raise UserError(
                f"{call.step}: its input {name} {given.address} is gone: rerun the step that makes it"
            ) from None
        if digest_of_input(content, given.address) != given.digest:
            raise UserError(
                f"{call.step}: its input {name} {given.address} is not what the run read any more: submit the recipe"
            )


def image_for(call: StepCall, profile: Profile, where: str, *, current: bool = False) -> str:
    """The image of a rerun: the run's own if the profile allows it, else the profile's present one."""
    if current or not call.image:
        return check_image(*image_of(call.step, profile), where)
    if call.image not in profile.allowed_images():
        raise UserError(
            f"{where}: run {call.run} used {call.image!r}, which is not among the profile's images: "
            f"add it to images.allowed, or give --current-image"
        )
    return check_image("images.allowed", call.image, where)


# -- Kubernetes


def job(call: StepCall, recipe: Recipe, profile: Profile, image: str, *, force: bool) -> dict[str, Any]:
    """A batch/v1 Job for ``kubectl create -f -``: its name is generated, so that a second one is another Job."""
    labels = _labels(call.step) | {"sida/run": label(call.run)}
    pod = pod_of(call.step, recipe, profile, "profile", image=image)
    spec = pod.as_job(["sida", "step", call.step], arguments(call, force=force), labels)
    name, notes = f"sida-{_dashed(call.step)}-", {"sida/run": call.run, "sida/recipe": call.recipe}
    metadata = _metadata(profile, generateName=name, labels=labels | _queue(pod), annotations=notes)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def cron_job(step: str, recipe: Recipe, profile: Profile, where: str) -> dict[str, Any]:
    """A suspended CronJob: ``kubectl create job --from=cronjob/sida-score rerun-1`` repeats the step.

    The run is the key ``run`` of the ConfigMap ``sida-rerun``. The pod reads the record itself.
    """
    chosen: Variables = {"SIDA_RERUN": {"configMapKeyRef": {"name": CONFIG_MAP, "key": "run"}}}
    args = ["$(SIDA_RERUN)", step, "--local"]
    # Network policies know the pod by its labels.
    pod = pod_of(step, recipe, profile, where)
    spec = pod.as_job(["sida", "rerun"], args, _labels(step), chosen)
    metadata = _metadata(profile, name=f"sida-{_dashed(step)}", labels=_labels(step))
    template = {"metadata": {"labels": _labels(step) | _queue(pod)}, "spec": spec}
    schedule = {"schedule": NEVER, "suspend": True, "concurrencyPolicy": "Forbid", "jobTemplate": template}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": schedule}


def _metadata(profile: Profile, **fields: str | dict[str, str]) -> dict[str, str | dict[str, str]]:
    return fields | ({"namespace": profile.job_namespace} if profile.job_namespace else {})


def _labels(step: str) -> dict[str, str]:
    return PART | {"app.kubernetes.io/component": _dashed(step)}


def _queue(pod: StepPod) -> dict[str, str]:
    return queue_labels(pod.queue, pod.priority_class)


def _dashed(step: str) -> str:
    return step.replace("_", "-")


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """One document each."""
    return yaml.safe_dump_all(objects, sort_keys=False, width=1000, explicit_start=True)


# -- as a run of its own


def title(call: StepCall) -> str:
    """Name of the run in the engine's pages: ``score of 0f3c5a3e again``."""
    uuid = re.fullmatch(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}", call.run)  # Kubeflow's; others are words
    return f"{call.step} of {uuid[1] if uuid else call.run} again"
