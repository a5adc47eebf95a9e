"""A step whose heavy part runs in a TrainJob: what its pod is told, and what must be there before a run is submitted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipeline.profile import Profile, StepNeeds, check_image
from sida.errors import SidaError, UserError
from sida.launch.cluster import Cluster, Refused
from sida.launch.manifest import API_VERSION
from sida.launch.target import Target

if TYPE_CHECKING:
    from sida.launch.cluster import Cluster
    from sida.recipe import Recipe

LEASE_WAIT = (
    "120"  # seconds: the lease of a pod that was lost has to expire before the next one, which starts at once, can work
)


def variables(step: str, recipe: Recipe, profile: Profile, where: str, *, allow_tags: bool = False) -> dict[str, str]:
    """The environment that makes a step launch a TrainJob; empty for one that does its work itself.

    Raises UserError for an image without a digest, or processes that cannot be shared out over the nodes.
    """
    if not profile.launched(step):
        return {}
    needs, jobs = profile.needs(step), profile.trainjob
    assert jobs is not None  # the profile sees to it

    target = Target(
        namespace=jobs.namespace,
        runtime=jobs.runtime,
        runtime_kind=jobs.runtime_kind,
        image=check_image(*profile.image_for(step), where, allow_tags=allow_tags),
        nodes=needs.nodes or 1,
        cpu=needs.cpu or "",
        cpu_limit=needs.cpu_limit or "",
        memory=needs.memory or "",
        accelerator=needs.accelerator or "",
        shared_memory=needs.shared_memory or "",
        node_selector=needs.node_selector or {},
        tolerations=tuple(toleration.model_dump(exclude_none=True) for toleration in needs.tolerations or ()),
        service_account=jobs.service_account or "",
        image_pull_secrets=profile.image_pull_secrets,
        run_as_user=profile.run_as_user,
        env=profile.variables(),
        secrets=tuple({"name": s.name, "variables": s.variables} for s in profile.secrets),  # type: ignore[misc]
        queue=jobs.queue or "",
        deadline_seconds=needs.timeout_seconds,
        on_termination=jobs.on_termination,
        abandoned_seconds=jobs.abandoned_seconds,
        outage_seconds=jobs.outage_seconds,
    )
    try:
        target.per_node(recipe.execution.processes)
    except UserError as error:
        raise UserError(f"{where}: steps.{step}.nodes: {error}") from error
    text = target.model_dump_json(exclude_defaults=True)
    return {"SIDA_LAUNCHER": "trainjob", "SIDA_TRAINJOB": text}


def pod_needs(step: str, profile: Profile) -> StepNeeds:
    """What the step's own pod asks for: little, and no deadline of its own, where it only follows a TrainJob."""
    needs, jobs = profile.needs(step), profile.trainjob
    if not profile.launched(step) or jobs is None:
        return needs
    light = {"retries": needs.retries, "backoff_seconds": needs.backoff_seconds}
    return StepNeeds(cpu=jobs.cpu, cpu_limit=jobs.cpu_limit, memory=jobs.memory, **light)  # type: ignore[arg-type]


def pod_image(step: str, profile: Profile) -> tuple[str, str]:
    """(field, image) of the step's own pod."""
    return ("images.cpu", profile.images.cpu) if profile.launched(step) else profile.image_for(step)


def job_account(step: str, profile: Profile) -> str | None:
    """The service account of a step's Job: only those that launch need one that may make TrainJobs."""
    if profile.launched(step) and profile.trainjob is not None and profile.trainjob.launcher_account:
        return profile.trainjob.launcher_account
    return profile.job_service_account


def check_cluster(profile: Profile, steps: Any) -> None:
    """Before anything is submitted: is there a Kubeflow Trainer, and the runtime that the profile names?

    Raises UserError when one of them is missing. Without access to the cluster from here there is a warning, for KFP may be reached
    through a gateway alone.
    """
    jobs, launched = profile.trainjob, [step for step in steps if profile.launched(step)]
    if jobs is None or not launched:
        return

    who = f"{', '.join(launched)}: launcher: trainjob"
    try:
        cluster: Cluster = Cluster(jobs.namespace, outage_seconds=10.0)
        if not cluster.serves_trainjobs():
            raise Missing(
                f"{who}, but the cluster at {cluster.host} does not serve TrainJobs ({API_VERSION}): install Kubeflow Trainer 2.2 "
                f"or newer, or set launcher: local in the profile"
            )
        if not cluster.has_runtime(jobs.runtime_kind, jobs.runtime):
            raise Missing(
                f"{who}, but there is no {jobs.runtime_kind} {jobs.runtime!r} in namespace {jobs.namespace}: "
                f"`sida runtime --profile ... | kubectl apply -f -` makes ours"
            )
    except Missing:
        raise
    except (SidaError, Refused) as error:
        print(f"warning: whether TrainJobs can be made in {jobs.namespace} was not checked: {error}", file=sys.stderr)


class Missing(UserError):
    """The cluster has not what the profile asks for."""
