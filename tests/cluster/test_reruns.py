"""One step of a run again, with kubectl alone."""

from __future__ import annotations

import json

from tests.cluster.conftest import Cluster, Undisturbed
from tests.cluster.installed import NAMESPACE
from tests.cluster.kubectl import create, get, kubectl, until
from tests.cluster.test_training import ended, told


def test_a_job_of_rerun_reuses_what_is_there(cluster: Cluster, undisturbed: Undisturbed) -> None:
    text = cluster.done("rerun", undisturbed.run, "score", "--profile", cluster.profile)
    job = create(text).removeprefix("job.batch/")
    assert until("the rerun", lambda: ended(job)) == "Complete", told(job)
    status = json.loads(cluster.done("status", undisturbed.run, "--json"))
    assert {step["name"]: step["state"] for step in status["steps"]}["score"] == "reused"


def name_the_run(run: str) -> None:
    patch = json.dumps({"data": {"run": run}})
    kubectl("-n", NAMESPACE, "patch", "configmap", "sida-rerun", "--type=merge", "-p", patch)


def test_a_cronjob_repeats_the_step_of_the_run_that_the_configmap_names(
    cluster: Cluster, undisturbed: Undisturbed
) -> None:
    name_the_run(undisturbed.run)
    try:
        kubectl("-n", NAMESPACE, "create", "job", "--from=cronjob/sida-score", "rerun-score")
        assert until("the CronJob's Job", lambda: ended("rerun-score")) == "Complete", told("rerun-score")
    finally:
        name_the_run("")


def test_a_cronjob_without_a_run_says_how_to_name_one_and_is_not_tried_again(cluster: Cluster) -> None:
    kubectl("-n", NAMESPACE, "create", "job", "--from=cronjob/sida-report", "rerun-nothing")
    assert until("the CronJob's Job", lambda: ended("rerun-nothing")) == "Failed"
    assert "patch configmap sida-rerun" in told("rerun-nothing")
    pods = get("pods", "", "-l", "job-name=rerun-nothing", namespace=NAMESPACE)
    assert len(pods) == 1  # a user's mistake: a second pod would say the same
