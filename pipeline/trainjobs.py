"""The TrainJobs of a run, found by the run's label; and what must be there before a run that makes some is submitted."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal

from pipeline.profile import LAUNCHED, Profile, TrainJobs
from sida.errors import SidaError, UserError
from sida.launch.cluster import ApiRefused, Cluster, explain
from sida.launch.trainjob import TrainJobLauncher
from sida.launch.trainjob_manifest import API_VERSION, RUN, STEP, label
from sida.layout import check_run_id


def options(profile: Profile) -> TrainJobs | None:
    """Return what the profile says of TrainJobs; None where no step makes one."""
    return profile.trainjob if any(profile.launched(step) for step in LAUNCHED) else None


def selector(run: str, step: str = "") -> str:
    """Return the label selector of a run's TrainJobs, or of one step's. Raises UserError for a malformed run id."""
    return f"{RUN}={label(check_run_id(run))}{f',{STEP}={step}' if step else ''}"


def launchers(profile: Profile, run: str) -> list[TrainJobLauncher]:
    """Return the launchers of a run's TrainJobs, which end them. Raises UserError when the cluster refuses to list them."""
    if (jobs := options(profile)) is None:
        return []
    cluster = Cluster(jobs.namespace, outage_seconds=10.0)
    try:
        running = cluster.find(selector(run))
    except ApiRefused as error:
        raise explain(error, "list TrainJobs", cluster.namespace) from error
    ending: Literal["suspend", "delete"] = "suspend" if jobs.on_termination == "suspend" else "delete"
    return [TrainJobLauncher(cluster, job, ending) for job in running]


def check_cluster(profile: Profile, steps: Iterable[str]) -> None:
    """Before anything is submitted: is there a Kubeflow Trainer, and the runtime that the profile names?

    Raises UserError when one of them is missing. Without access to the cluster from here there is a warning, for Kubeflow
    Pipelines may be reached through a gateway alone.
    """
    jobs, launched = profile.trainjob, [step for step in steps if profile.launched(step)]
    if jobs is None or not launched:
        return
    fault = ""
    try:
        cluster = Cluster(jobs.namespace, outage_seconds=10.0)
        if not cluster.serves_trainjobs():
            fault = (
                f"the cluster at {cluster.host} does not serve TrainJobs ({API_VERSION}): install Kubeflow Trainer 2.2 "
                f"or newer, or set launcher: local in the profile"
            )
        elif not cluster.has_runtime(jobs.runtime_kind, jobs.runtime):
            fault = (
                f"there is no {jobs.runtime_kind} {jobs.runtime!r} in namespace {jobs.namespace}: "
                f"`sida runtime --profile ... | kubectl apply -f -` makes ours"
            )
    except (SidaError, ApiRefused) as error:
        print(f"warning: whether TrainJobs can be made in {jobs.namespace} was not checked: {error}", file=sys.stderr)
    if fault:
        raise UserError(f"{', '.join(launched)}: launcher: trainjob, but {fault}")
