"""The TrainJobs of a run, found by the run's label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.profile import LAUNCHED, Profile
from sida.launch.cluster import Cluster, Refused, explain
from sida.launch.manifest import RUN, STEP, label
from sida.launch.trainjob import TrainJobLauncher
from sida.layout import check_run_id

if TYPE_CHECKING:
    from sida.launch.trainjob import TrainJobLauncher


def launches(profile: Profile) -> bool:
    """Return whether the profile makes TrainJobs."""
    return profile.trainjob is not None and any(profile.launched(step) for step in LAUNCHED)


def selector(run: str, step: str = "") -> str:
    """Return the label selector of a run's TrainJobs, or of one step's. Raises UserError for a malformed run id."""
    return f"{RUN}={label(check_run_id(run))}{f',{STEP}={step}' if step else ''}"


def launchers(profile: Profile, run: str) -> list[TrainJobLauncher]:
    """Return the launchers of a run's TrainJobs, which end them. Raises UserError when the cluster refuses to list them."""

    if profile.trainjob is None or not launches(profile):
        return []
    cluster = Cluster(profile.trainjob.namespace, outage_seconds=10.0)
    try:
        jobs = cluster.find(selector(run))
    except Refused as error:
        raise explain(error, "list TrainJobs", cluster.namespace) from error
    suspends = profile.trainjob.on_termination == "suspend"
    return [TrainJobLauncher(cluster, job, "suspend" if suspends else "delete") for job in jobs]
