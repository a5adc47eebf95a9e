"""The TrainJobs of a run, for the verbs status and cancel: found by the run's label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.profile import LAUNCHED, Profile

if TYPE_CHECKING:
    from sida.launch.cluster import Cluster


def launches(profile: Profile) -> bool:
    """Whether the profile makes TrainJobs."""
    return profile.trainjob is not None and any(profile.launched(step) for step in LAUNCHED)


def cluster_of(profile: Profile) -> Cluster | None:
    """Where the profile's TrainJobs run; None for a profile that makes none."""
    if profile.trainjob is None or not launches(profile):
        return None
    from sida.launch.cluster import Cluster

    return Cluster(profile.trainjob.namespace, outage_seconds=10.0)


def jobs_of(cluster: Cluster, run: str) -> dict[str, dict[str, Any]]:
    """Step -> TrainJob. Raises UserError when the cluster refuses to list them."""
    from sida.launch.cluster import Refused, explain
    from sida.launch.manifest import RUN, STEP, label
    from sida.layout import check_run_id

    try:
        found = cluster.find(f"{RUN}={label(check_run_id(run))}")
    except Refused as error:
        raise explain(error, "list TrainJobs", cluster.namespace) from error
    return {job["metadata"]["labels"][STEP]: job for job in found}


def in_words(job: dict[str, Any]) -> str:
    """``TrainJob sida-distill-1a2b: 2 pods run``."""
    from sida.launch.job_state import ended

    status = job.get("status") or {}
    if (end := ended(job)) is not None:
        state = f"{end[0]}{f' ({end[1]})' if end[1] else ''}"
    elif any(c.get("type") == "Suspended" and c.get("status") == "True" for c in status.get("conditions") or []):
        state = "suspended, or waiting in a queue"
    else:
        ready = sum(counts.get("ready", 0) for counts in status.get("jobsStatus") or [])
        state = "its pods run" if ready else "starting"
    return f"TrainJob {job['metadata']['name']}: {state}"


def end(cluster: Cluster, job: dict[str, Any], wish: str) -> str:
    """Delete or suspend; in words what was done. Raises UserError when the cluster refuses."""
    from sida.launch.cluster import Refused, explain
    from sida.launch.job_state import end_job, ended

    name = job["metadata"]["name"]
    if ended(job) is not None:
        return f"TrainJob {name}: had ended already"
    try:
        end_job(cluster, name, job["metadata"]["uid"], wish)
    except Refused as error:
        raise explain(error, f"{wish} TrainJobs", cluster.namespace) from error
    return f"TrainJob {name}: {'suspended' if wish == 'suspend' else 'deleted'}; checkpoints are kept"
