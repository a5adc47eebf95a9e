"""The log of any step of a run on a cluster: its pod's while that exists, else the copy that was kept in the store at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import trainjobs
from pipeline.engines import naming
from pipeline.engines.argo_template import dashed
from pipeline.observing import look_at_store
from sida.errors import NotFound, UserError
from sida.launch.cluster import Cluster
from sida.launch.looker import Looker, Looks, in_a_line
from sida.launch.trainjob import TrainJobLauncher
from sida.layout import check_run_id, run_job_key
from sida.records import calls
from sida.steps.log import read_log

if TYPE_CHECKING:
    from pipeline.profile import Profile
    from sida.stores import ObjectStore


def step_log(profile: Profile, run: str, step: str, *, follow: bool) -> Iterator[str]:
    """Return the log's lines; with ``follow`` until the pod ends. Raises UserError that names the places when there is none."""
    looks, run = Looks(), check_run_id(run)
    log = _of_trainjob(looks, profile, run, step, follow) or _of_pod(looks, profile, run, step, follow)
    if log is not None:
        return log
    text = look_at_store(looks, profile, lambda store: kept_log(store, run, step))
    if text is not None:
        return iter(text.splitlines())
    call = look_at_store(looks, profile, lambda store: calls(store, run).get(step))
    if call is not None and call.state == "reused":
        raise UserError(f"run {run}, {step}: no log: its result was there already: {call.manifest}")
    unseen = in_a_line(looks.missing)
    raise UserError(
        f"run {run}, {step}: no log: it has not begun, or its pod is gone and left none in {profile.store}"
        f"{f' ({unseen})' if unseen else ''}: `status {run} --profile ...` says how it stands"
    )


def _of_trainjob(looks: Looks, profile: Profile, run: str, step: str, follow: bool) -> Iterator[str] | None:
    """Return the log of the first node's newest pod."""
    if (options := trainjobs.options(profile)) is None:
        return None
    looker = Looker(options.namespace, looks)
    jobs = looker.look("trainjobs", lambda cluster: cluster.find(trainjobs.selector(run, step)))
    if not jobs:
        return None
    job = max(jobs, key=lambda job: str(job["metadata"].get("creationTimestamp")))
    return TrainJobLauncher(Cluster(looker.namespace, outage_seconds=0.0), job, looker=looker).log(follow=follow)


def _of_pod(looks: Looks, profile: Profile, run: str, step: str, follow: bool) -> Iterator[str] | None:
    """Return the log of the step's own pod, or of its driver's if it came no further."""
    looker = Looker(profile.namespace, looks)
    names = naming.NAMINGS[profile.engine]
    for driver in (False, True):
        place = naming.Place(dashed(step), driver)
        lines = looker.newest_log(
            step,
            names.pods(run),
            naming.CONTAINER,
            lambda pod, place=place: names.place(pod) == place,  # type: ignore[misc]
            follow=follow,
        )
        if lines is not None:
            return naming.without_argo(lines)
    return None


def kept_log(store: ObjectStore, run: str, step: str) -> str | None:
    """Return the store's log of a step that has ended: of a TrainJob its workers', else the step's own; None if there is none."""
    try:
        folder = json.loads(store.read(run_job_key(run, step.partition(".")[0])))["folder"]
        if text := store.read(f"{folder}/log.txt").decode(errors="replace"):
            return text
    except NotFound:
        pass
    return read_log(store, run, step)
