"""The pod of a step: made from recipe and profile, rendered for Kubeflow Pipelines, for Argo Workflows and as a Job.

How many CPUs and accelerators it asks for follows from the recipe's execution, everything else from the profile. A step whose heavy
part runs in a TrainJob has a light pod, which is handed the TrainJob's in SIDA_TRAINJOB.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.profile import LAUNCHED, READS, Profile, TrainJobs, check_image, has_digest
from sida.errors import UserError
from sida.launch import grace
from sida.launch.pod import NO_SIDECAR, PLACES, SHM, Pod, Variables, environment, secret_key
from sida.launch.target import Target
from sida.recipe import Recipe
from sida.registry import STEPS

KEPT_SECONDS = 7 * 86400  # how long to keep a finished Job
CONTAINER = "step"
# Seconds: the next pod starts at once, but cannot work before the lease of the one that was lost has expired.
LEASE_WAIT = "120"
NOT_THE_PODS = {"launcher", "nodes", "processes"}  # what steps need beside a pod
FILES = {"volumes", "cache"}  # the exit handler needs none
# Argo's expression for what is worth another try; 2 is UserError's status. Words: "Pod was active on the node longer than the
# specified deadline".
PASSES = (
    f"lastRetry.exitCode != '{UserError.exit_code}' && "
    "!(lastRetry.message contains 'OOMKilled') && !(lastRetry.message contains 'deadline')"
)
FOLLOWING = {"cpu", "cpu_limit", "memory"}  # what a profile's TrainJobs ask for the pods that follow them


class StepPod(Pod):
    """A pod, and what happens when it fails."""

    retries: int = 0
    backoff_seconds: int | None = None
    grace_seconds: int = grace.FLOOR_SECONDS  # from SIGTERM to SIGKILL; Kubeflow Pipelines has no word for it
    launches: bool = False  # makes a TrainJob
    queue: str = ""  # of Kueue, for the Job; Kubeflow Pipelines' pods cannot wait in one
    priority_class: str = ""

    def as_kfp(self, task: Any) -> None:
        """Set it on a task of Kubeflow Pipelines, whose servers before 2.16 ignore the security context."""
        from kfp import kubernetes

        task.set_cpu_request(self.resources()["requests"]["cpu"])
        if self.cpu_limit:
            task.set_cpu_limit(self.cpu_limit)
        if self.memory:
            task.set_memory_request(self.memory).set_memory_limit(self.memory)
        if self.accelerator:
            task.set_accelerator_type(self.accelerator).set_accelerator_limit(self.processes)
        if self.image:
            task.set_container_image(self.image)
            user = self.run_as_user
            kubernetes.set_security_context(task, run_as_user=user, run_as_group=user, run_as_non_root=True)
        for name, value in self.env.items():
            if isinstance(value, str):
                task.set_env_variable(name, value)
            else:
                secret = value["secretKeyRef"]
                kubernetes.use_secret_as_env(task, secret["name"], {secret["key"]: name})
        if self.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.image_pull_secrets))
        for key, value in self.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in self.tolerations:
            kubernetes.add_toleration(task, **toleration)
        if self.shared_memory:
            kubernetes.empty_dir_mount(task, *SHM, medium="Memory", size_limit=self.shared_memory)
        for volume in self.volumes:  # KFP has no word for read-only (2.17: neither mount_pvc nor its message PvcMount)
            kubernetes.mount_pvc(task, volume.claim, volume.path, sub_path=volume.folder)
        if (cache := self.cache) is not None:
            path = PLACES["SIDA_CACHE"]
            if cache.claim:
                kubernetes.mount_pvc(task, cache.claim, path)
            elif cache.storage_class:
                once = ["ReadWriteOnce"]
                kubernetes.add_ephemeral_volume(task, "cache", path, once, cache.size, cache.storage_class)
            else:
                kubernetes.empty_dir_mount(task, "cache", path, size_limit=cache.size)
        if self.timeout_seconds:
            kubernetes.set_timeout(task, self.timeout_seconds)
        if self.retries:
            backoff = f"{self.backoff_seconds}s" if self.backoff_seconds else None
            task.set_retry(self.retries, backoff_duration=backoff)

    def as_job(
        self, command: list[str], args: list[str], labels: dict[str, str], more: Variables | None = None
    ) -> dict[str, Any]:
        """Return the spec of a Job that runs ``command``, with ``more`` variables than the pod's own."""
        container = self._container(CONTAINER, command, args, more or {})
        pod: dict[str, Any] = {"restartPolicy": "Never", "automountServiceAccountToken": self.launches}
        pod |= {"terminationGracePeriodSeconds": self.grace_seconds} | self.around(container)
        mistake = {"containerName": CONTAINER, "operator": "In", "values": [UserError.exit_code]}
        rules = [
            {"action": "FailJob", "onExitCodes": mistake},  # would end the same again
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },  # its node's doing
        ]
        spec: dict[str, Any] = {
            "backoffLimit": self.retries,
            "podFailurePolicy": {"rules": rules},
            "ttlSecondsAfterFinished": KEPT_SECONDS,
        }
        if self.queue:  # Kueue starts it
            spec["suspend"] = True
        if self.timeout_seconds:
            spec["activeDeadlineSeconds"] = self.timeout_seconds
        return spec | {"template": {"spec": pod, "metadata": {"labels": labels | NO_SIDECAR}}}

    def as_template(self, command: list[str], args: list[str], labels: dict[str, str]) -> dict[str, Any]:
        """Return the pod as a template of Argo Workflows, but for its name, inputs and outputs.

        Image pull secrets are the Workflow's. A user's mistake, a lack of memory and of time would end the same again.
        """
        pod = self.around(self._container("main", command, args, {}))
        pod.pop("imagePullSecrets", None)
        (container,) = pod.pop("containers")
        # Argo has no word for the grace, and only takes a token away, where the account's own word is that there is none.
        patch = {"terminationGracePeriodSeconds": self.grace_seconds} | (
            {"automountServiceAccountToken": True} if self.launches else {}
        )
        template = {"metadata": {"labels": labels}, "podSpecPatch": json.dumps(patch)} | pod
        if self.timeout_seconds:
            template["activeDeadlineSeconds"] = self.timeout_seconds
        if self.retries:
            backoff = {"duration": f"{self.backoff_seconds or 1}s", "factor": "2"}
            strategy = {"limit": str(self.retries), "retryPolicy": "Always", "expression": PASSES, "backoff": backoff}
            template["retryStrategy"] = strategy
        else:  # in place of what a controller's defaults may say
            template["retryStrategy"] = {"limit": "0"}
        return template | {"container": container}

    def _container(self, name: str, command: list[str], args: list[str], more: Variables) -> dict[str, Any]:
        resources = self.resources().items()
        own = PLACES | {"SIDA_GRACE": str(grace.of_workers(self.grace_seconds))}
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent" if has_digest(self.image) else "Always",
            "command": command,
            "args": args,
            "env": environment(self.env | own | more),
            "resources": {kind: {name: str(amount) for name, amount in each.items()} for kind, each in resources},
        }


def pod_of(
    step: str, recipe: Recipe, profile: Profile | None, where: str, *, allow_tags: bool = False, image: str = ""
) -> StepPod:
    """Return a step's own pod; without a profile, what the recipe decides of it. ``image``: in place of the profile's.

    Raises UserError for an image without a digest, or processes that cannot be shared out over a TrainJob's nodes, or the batch
    over them.
    """
    execution = recipe.execution
    asks = None if profile is None else profile.needs(step).processes
    processes = (asks or execution.processes) if _parallel(step, recipe) else 1
    work: dict[str, Any] = {"processes": processes, "threads": execution.threads}
    if step == "distill":
        whose = f"{where}: steps.{step}.processes" if asks else f"recipe {recipe.name}: execution.processes"
        _check_division(recipe, processes, whose)
    if profile is None:
        return StepPod(**work)
    image = image or check_image(*image_of(step, profile), where, allow_tags=allow_tags)
    needs, account, launch = profile.needs(step), profile.job_service_account, dict[str, str]()
    asked = needs.model_dump(exclude_none=True, exclude=NOT_THE_PODS | (FILES if step not in STEPS else set()))
    jobs, queued = profile.trainjob, dict[str, Any]()
    if jobs is not None and not profile.launched(step) and (needs.accelerator or step in LAUNCHED):
        queued = jobs.model_dump(exclude_none=True, include={"queue", "priority_class"})  # light steps wait for nobody
    if jobs is not None and profile.launched(step):
        target = _target(step, profile, jobs, check_image(*profile.image_for(step), where, allow_tags=allow_tags))
        try:
            target.per_node(execution.processes)
        except UserError as error:
            raise UserError(f"{where}: steps.{step}.nodes: {error}") from error
        launch = {"SIDA_LAUNCHER": "trainjob", "SIDA_TRAINJOB": target.model_dump_json(exclude_defaults=True)}
        account = jobs.launcher_account or account
        # Little, and no deadline of its own: it only follows the TrainJob.
        files = {"volumes"} if step in READS.values() else set()
        asked = needs.model_dump(exclude_none=True, include={"retries", "backoff_seconds"} | files)
        asked |= jobs.model_dump(exclude_none=True, include=FOLLOWING)
    elif asks and _parallel(step, recipe):
        launch = {"SIDA_WORKERS": str(asks)}
    return StepPod(
        image=image,
        env={"SIDA_LEASE_WAIT": LEASE_WAIT, **profile.variables(), "SIDA_IMAGE": image, **launch, **_secrets(profile)},
        service_account=account or "",
        image_pull_secrets=profile.image_pull_secrets,
        run_as_user=profile.run_as_user,
        launches="SIDA_LAUNCHER" in launch,
        **queued,
        grace_seconds=(jobs.grace_seconds if jobs else None) or grace.FLOOR_SECONDS,
        **work,
        **asked,
    ).cached()


def _check_division(recipe: Recipe, processes: int, field: str) -> None:
    from sida.gpus import GPUS, Machines
    from sida.planning import check_division

    try:
        check_division(recipe, Machines(1, processes, GPUS["h100"]))
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def image_of(step: str, profile: Profile) -> tuple[str, str]:
    """(field, image) of the step's own pod."""
    return ("images.cpu", profile.images.cpu) if profile.launched(step) else profile.image_for(step)


def _target(step: str, profile: Profile, jobs: TrainJobs, image: str) -> Target:
    needs = profile.needs(step)
    pod = Pod(
        image=image,
        env={**profile.variables(), **_secrets(profile)},
        service_account=jobs.service_account or "",
        image_pull_secrets=profile.image_pull_secrets,
        run_as_user=profile.run_as_user,
        **needs.model_dump(exclude_none=True, exclude=NOT_THE_PODS | {"retries", "backoff_seconds"}),
    ).cached()
    job = jobs.model_dump(exclude_none=True, exclude={"service_account", "launcher_account", *FOLLOWING})
    return Target(pod=pod, nodes=needs.nodes or 1, processes=needs.processes, **job)


def _secrets(profile: Profile) -> Variables:
    return {
        variable: secret_key(secret.name, key)
        for secret in profile.secrets
        for variable, key in secret.variables.items()
    }


def _parallel(step: str, recipe: Recipe) -> bool:
    """Return whether the step starts the recipe's processes; prepare_data does where it encodes latents."""
    if step == "prepare_data":
        return recipe.dataset.latents is not None
    return step in STEPS and STEPS[step].launches
