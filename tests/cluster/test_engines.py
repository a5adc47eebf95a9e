"""The whole DAG on each engine that the cluster has: Kubeflow Pipelines, and Argo Workflows alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import argo, installed
from tests.cluster.conftest import RECIPE, Cluster, Undisturbed, free_port
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import create, forwarded, get, kubectl, until
from tests.cluster.test_training import ended, kill_node, node
from tests.conftest import ROOT

EXPERIMENT = "sida-test"
REUSED_SECONDS = 40  # of a run whose every step is published, on a machine that does nothing else


@dataclass(frozen=True)
class Engine:
    """An engine under test, with a store in which nothing is yet: every step runs."""

    name: str
    profile: str
    store: str


@pytest.fixture(scope="module", params=["argo", "kubeflow"])
def engine(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Engine]:
    name, store = request.param, f"s3://sida/{request.param}"
    if name == "argo":
        profile = installed.profile(cluster.folder, cluster.images, "argo.yaml", shipped="argo", store=store)
        with argo.controlled():
            yield Engine(name, profile, store)
        return
    if installed.pipelines() != "kubeflow":
        pytest.skip("this cluster has no Kubeflow Pipelines: its real answers are in tests/pipeline/facts")
    with forwarded("kubeflow", "ml-pipeline", 8888, free_port()) as host:
        kfp = {"host": host, "experiment": EXPERIMENT}
        profile = installed.profile(cluster.folder, cluster.images, "kubeflow.yaml", kfp=kfp, store=store)
        until(
            "Kubeflow Pipelines",
            lambda: cluster.pipeline("status", "--profile", engine.profile).returncode == 0 or None,
            60,
        )
        try:
            yield Engine(name, profile, store)
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
def run(cluster: Cluster, undisturbed: Undisturbed, engine: Engine, recipe: str) -> str:
    """Id of a run of the whole DAG that ended well, though pods of it were killed where the engine is to start them again."""
    killed = threading.Event()
    watching = threading.Thread(target=disturb, args=(killed,), daemon=True)
    if engine.name == "argo":
        watching.start()
    said = cluster.pipeline("submit", recipe, "--profile", engine.profile, "--wait", "--json", seconds=1_800)
    assert said.returncode == 0, said.stderr
    assert said.stderr.splitlines()[-1].endswith("SUCCEEDED"), said.stderr
    assert killed.is_set() or engine.name != "argo", said.stderr
    return str(json.loads(said.stdout)["run"])


def disturb(killed: threading.Event) -> None:
    """Delete the launching pod while both nodes train, then kill everything on one of them."""
    node(0)
    node(1)
    kubectl(
        "-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=distill", "--grace-period=0", "--force"
    )
    kill_node(1)()
    killed.set()


def told(cluster: Cluster, run: str, engine: Engine) -> dict[str, Any]:
    """How a run stands, as `status` says it."""
    said = cluster.pipeline("status", run, "--profile", engine.profile, "--json")
    return dict(json.loads(said.stdout))


def in_store(cluster: Cluster, engine: Engine, code: str) -> Any:
    """What a line of Python makes of the run's store, as JSON."""
    head = f"import json; from sida import records; from sida.stores import open_store; store = open_store({engine.store!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{head}; print(json.dumps({code}))"],
        cwd=ROOT,
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def scores(cluster: Cluster, engine: Engine) -> list[str]:
    """Every score's key in the store of the runs."""
    return sorted(in_store(cluster, engine, "list({key.split('/')[2] for key in store.list('steps/score/')})"))


def test_a_disturbed_run_ends_in_the_generator_of_this_machine(
    cluster: Cluster, undisturbed: Undisturbed, engine: Engine, run: str
) -> None:
    made = f"records.manifests(store, records.calls(store, {run!r}))['distill'].result.weights.sha256"
    assert in_store(cluster, engine, made) == undisturbed.generator
    assert in_store(cluster, engine, f"records.end_of(store, {run!r}).state") == "SUCCEEDED"


def test_a_second_run_reuses_every_step(cluster: Cluster, run: str, engine: Engine, recipe: str) -> None:
    before = scores(cluster, engine)
    said = cluster.pipeline(
        "submit", recipe, "--profile", engine.profile, "--repeat", "reuse", "--wait", "--json", seconds=1_200
    )
    assert said.returncode == 0, said.stderr
    assert scores(cluster, engine) == before
    again = json.loads(said.stdout)["run"]
    steps = {step["name"]: step for step in told(cluster, again, engine)["steps"]}
    assert {"fetch_teacher", "distill", "report"} <= set(steps)
    if engine.name == "argo":  # nothing but the look and the end has had a pod
        pods = get("pods", "", "-l", f"workflows.argoproj.io/workflow={again}", namespace=NAMESPACE)
        assert len(pods) <= 2, [pod["metadata"]["name"] for pod in pods]
        status = get("workflow", again, namespace=NAMESPACE)["status"]
        made = [node["templateName"] for node in status["nodes"].values() if node["type"] == "Pod"]
        assert sorted(made) == ["look-up", "record-end"]
        print(f"a reused run: {status['startedAt']} to {status['finishedAt']}; at most {REUSED_SECONDS} s are wanted")


def test_logs_of_a_step_are_shown_when_its_pod_is_gone(cluster: Cluster, run: str, engine: Engine) -> None:
    assert "images" in cluster.done("logs", run, "distill", "--profile", engine.profile)
    assert cluster.done("logs", run, "score", "--profile", engine.profile)


def test_one_step_is_run_again_as_a_job_and_as_a_run(cluster: Cluster, run: str, engine: Engine) -> None:
    job = create(cluster.done("rerun", run, "score", "--profile", engine.profile)).removeprefix("job.batch/")
    assert until(f"Job {job}", lambda: ended(job), 300) == "Complete"
    if engine.name == "argo":
        again = cluster.done("rerun", run, "score", "--profile", engine.profile, "--submit").strip()
        until("the step's run", lambda: told(cluster, again, engine)["state"] == "SUCCEEDED" or None, 300)


def test_two_firings_of_a_schedule_are_two_measurements(
    cluster: Cluster, run: str, engine: Engine, recipe: str
) -> None:
    before = len(scores(cluster, engine))
    cluster.done("schedule", recipe, "--profile", engine.profile, "--cron", "*/1 * * * *")
    try:
        until("two more scores", lambda: len(scores(cluster, engine)) >= before + 2 or None, 1_500)
    finally:
        cluster.done("schedule", recipe, "--profile", engine.profile, "--delete")
    assert "no schedule" in cluster.done("schedule", "--list", "--profile", engine.profile)


def test_a_cancelled_run_is_told_as_cancelled(cluster: Cluster, run: str, engine: Engine, recipe: str) -> None:
    started = json.loads(
        cluster.done("submit", recipe, "--profile", engine.profile, "--repeat", "cancelled", "--json")
    )["run"]
    until("a first step", lambda: told(cluster, started, engine)["steps"] or None, 300)
    cluster.done("cancel", started, "--profile", engine.profile)

    def over() -> str | None:
        state = str(told(cluster, started, engine)["state"])
        return None if state in ("PENDING", "RUNNING", "CANCELING") else state

    assert until("its end", over, 300) == "CANCELLED"


def test_a_wrong_digest_is_told_by_submit_with_the_step_s_own_words(
    cluster: Cluster, run: str, engine: Engine, recipe: str
) -> None:
    wrong = Path(recipe).with_name("wrong.yaml")
    fields = yaml.safe_load(RECIPE) | {"name": "cluster-wrong", "teacher": {"sha256": "0" * 64}}
    wrong.write_text(yaml.safe_dump(fields))
    began = time.monotonic()
    said = cluster.pipeline("submit", str(wrong), "--profile", engine.profile, "--wait", seconds=900)
    assert said.returncode == 1, said.stderr
    assert "fetch_teacher" in said.stderr and "sha256" in said.stderr, said.stderr
    assert time.monotonic() - began < 600
