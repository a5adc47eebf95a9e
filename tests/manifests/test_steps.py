"""The step CronJobs of the overlays are those that ``sida rerun --cronjobs`` prints.

After a change: ``python -m tests.manifests.test_steps`` writes them anew; read the difference.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from pipeline import rerun
from pipeline.plan import Plan
from pipeline.profile import Profile, load
from sida import recipe
from tests.manifests.render import MANIFESTS, named, of_kind, overlay, title

# overlay -> profile, registry
PROFILES = {
    "kind": ("laptop-kind", "localhost:5001"),
    "argo": ("argo", "localhost:5001"),
    "gpu": ("gpu", "registry.example.org"),
}
DIGEST = "sha256:" + "0" * 64  # of no image: who installs writes a profile with the right ones
HEAD = "# By `python -m tests.manifests.test_steps`. Yours: sida rerun --cronjobs digits --profile ./mine.yaml\n"


def profile_of(name: str) -> Profile:
    """The overlay's profile, its images filled in."""
    shipped, registry = PROFILES[name]
    loaded = load(shipped)
    names = {"cpu": f"{registry}/sida@{DIGEST}", "cuda": f"{registry}/sida-cuda@{DIGEST}"}
    return loaded.model_copy(update={"images": loaded.images.model_copy(update=names)})


def cron_jobs(name: str) -> str:
    loaded, where = recipe.load("digits"), profile_of(name)
    jobs = [rerun.cron_job(step, loaded, where, name) for step in Plan.of(loaded, "").tasks()]
    return HEAD + rerun.to_yaml(jobs)


def path_of(name: str) -> Path:
    return MANIFESTS / "overlays" / name / "cronjobs.yaml"


@pytest.mark.parametrize("name", PROFILES)
def test_the_step_cron_jobs_are_those_that_rerun_prints(name: str) -> None:
    assert path_of(name).read_text() == cron_jobs(name), "python -m tests.manifests.test_steps writes them anew"


@pytest.mark.parametrize("name", PROFILES)
def test_the_steps_log_to_the_mlflow_that_the_overlay_installs(name: str) -> None:
    address = urlsplit(profile_of(name).env["MLFLOW_TRACKING_URI"])
    service = named(overlay(name), "Service", "mlflow")
    assert address.hostname == f"mlflow.{service['metadata']['namespace']}"
    assert address.port in {port["port"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", PROFILES)
def test_kustomize_changes_nothing_in_them(name: str) -> None:
    rendered = of_kind(overlay(name), "CronJob")
    wanted = list(yaml.safe_load_all(cron_jobs(name)))
    assert sorted(rendered, key=title) == sorted(wanted, key=title)
    assert {job["metadata"]["namespace"] for job in rendered} == {"sida"}


@pytest.mark.parametrize("name", PROFILES)
def test_no_cron_job_starts_by_itself(name: str) -> None:
    for job in of_kind(overlay(name), "CronJob"):
        assert job["spec"]["suspend"] is True


if __name__ == "__main__":
    for _name in PROFILES:
        path_of(_name).write_text(cron_jobs(_name))
