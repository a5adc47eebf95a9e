"""The whole DAG on a real Kubeflow Pipelines, where the cluster has one."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import installed
from tests.cluster.conftest import RECIPE, Cluster, Undisturbed, free_port
from tests.cluster.kubectl import forwarded, until

EXPERIMENT = "sida-test"
STORE = "s3://sida/kubeflow"  # nothing is there yet: every step runs


@pytest.fixture(scope="module")
def profile(cluster: Cluster) -> Iterator[str]:
    """The tests' profile, with the API server's address and a store of its own."""
    if installed.pipelines() != "kubeflow":
        pytest.skip("this cluster has no Kubeflow Pipelines: its real answers are in tests/pipeline/facts")
    with forwarded("kubeflow", "ml-pipeline", 8888, free_port()) as host:
        kfp = {"host": host, "experiment": EXPERIMENT}
        path = installed.profile(cluster.folder, cluster.images, "kubeflow.yaml", kfp=kfp, store=STORE)
        until("Kubeflow Pipelines", lambda: cluster.pipeline("status", "--profile", path).returncode == 0 or None, 60)
        try:
            yield path
        finally:
            forget(host)


def forget(host: str) -> None:
    """Remove the tests' experiment with its runs and schedules, and the pipelines."""
    import kfp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's, about its own future
        client = kfp.Client(host=host)
    experiment = client.get_experiment(experiment_name=EXPERIMENT).experiment_id
    for schedule in client.list_recurring_runs(experiment_id=experiment, page_size=100).recurring_runs or []:
        client.delete_recurring_run(schedule.recurring_run_id)
    for run in client.list_runs(experiment_id=experiment, page_size=100).runs or []:
        client.delete_run(run.run_id)
    client.delete_experiment(experiment)
    for pipeline in client.list_pipelines(page_size=100).pipelines or []:
        if pipeline.display_name in ("sida-cluster", "sida-cluster-wrong"):
            for version in client.list_pipeline_versions(pipeline.pipeline_id, page_size=100).pipeline_versions or []:
                client.delete_pipeline_version(pipeline.pipeline_id, version.pipeline_version_id)
            client.delete_pipeline(pipeline.pipeline_id)


@pytest.fixture(scope="module")
def recipe(cluster: Cluster) -> str:
    path = cluster.folder / "cluster.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def run(cluster: Cluster, undisturbed: Undisturbed, profile: str, recipe: str) -> str:
    """Id of a run of the whole DAG that ended well."""
    said = cluster.pipeline("submit", recipe, "--profile", profile, "--wait", "--json", seconds=1_800)
    assert said.returncode == 0, said.stderr
    assert said.stderr.splitlines()[-1].endswith("SUCCEEDED"), said.stderr
    return str(json.loads(said.stdout)["run"])


def told(cluster: Cluster, run: str, profile: str) -> dict[str, Any]:
    """How a run stands, as `status` says it."""
    said = cluster.pipeline("status", run, "--profile", profile, "--json")
    return dict(json.loads(said.stdout))


def scores(cluster: Cluster) -> list[str]:
    """Every score's key in the store of the runs."""
    code = (
        "from sida.stores import open_store; print(*{k.split('/')[2] for k in open_store('%s').list('steps/score/')})"
    )
    import subprocess
    import sys

    from tests.conftest import ROOT

    done = subprocess.run(
        [sys.executable, "-c", code % STORE],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_run_of_kubeflow_ends_in_the_generator_of_this_machine(
    cluster: Cluster, undisturbed: Undisturbed, run: str, profile: str
) -> None:
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    code = f"""
import json
from sida import records
from sida.stores import open_store
store = open_store({STORE!r})
made = records.manifests(store, records.calls(store, {run!r}))
print(json.dumps([made["distill"].result.weights.sha256, records.end_of(store, {run!r}).state]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [undisturbed.generator, "SUCCEEDED"]


def test_a_second_run_reuses_every_step(cluster: Cluster, run: str, profile: str, recipe: str) -> None:
    before = scores(cluster)
    said = cluster.pipeline("submit", recipe, "--profile", profile, "--wait", seconds=1_200)
    assert said.returncode == 0, said.stderr
    assert scores(cluster) == before


def test_two_firings_of_a_schedule_are_two_measurements(
    cluster: Cluster, run: str, profile: str, recipe: str, request: pytest.FixtureRequest
) -> None:
    before = len(scores(cluster))
    cluster.done("schedule", recipe, "--profile", profile, "--cron", "*/1 * * * *")
    try:
        until("two more scores", lambda: len(scores(cluster)) >= before + 2 or None, 1_500)
    finally:
        cluster.done("schedule", recipe, "--profile", profile, "--delete")
    assert "no schedule" in cluster.done("schedule", "--list", "--profile", profile)


def test_a_cancelled_run_is_told_as_cancelled(cluster: Cluster, run: str, profile: str, recipe: str) -> None:
    started = json.loads(cluster.done("submit", recipe, "--profile", profile, "--repeat", "cancelled", "--json"))["run"]
    until("a first step", lambda: told(cluster, started, profile)["steps"] or None, 300)
    cluster.done("cancel", started, "--profile", profile)

    def over() -> str | None:
        state = str(told(cluster, started, profile)["state"])
        return None if state in ("PENDING", "RUNNING", "CANCELING") else state

    assert until("its end", over, 300) == "CANCELLED"


def test_a_wrong_digest_is_told_by_submit_with_the_step_s_own_words(
    cluster: Cluster, run: str, profile: str, recipe: str
) -> None:
    wrong = Path(recipe).with_name("wrong.yaml")
    fields = yaml.safe_load(RECIPE) | {"name": "cluster-wrong", "teacher": {"sha256": "0" * 64}}
    wrong.write_text(yaml.safe_dump(fields))
    began = time.monotonic()
    said = cluster.pipeline("submit", str(wrong), "--profile", profile, "--wait", seconds=900)
    assert said.returncode == 1, said.stderr
    assert "fetch_teacher" in said.stderr and "sha256" in said.stderr, said.stderr
    assert time.monotonic() - began < 600
