"""MLflow behind a proxy that loses answers: what was asked for is there once, in the order that its pages show."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import urllib3

from sida.stores import ObjectStore
from sida.tracking import making
from sida.tracking.projection import projection
from sida.tracking.reconcile import track, track_quietly
from tests.stores.faults import Proxy, spoiling
from tests.tracking.conftest import Server
from tests.tracking.runs import CURVE, Made
from tests.tracking.test_tracking import client, named, points, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # MLflow's own dependencies warn
POSTS = 2000  # more than there are


@pytest.fixture
def losing(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A way to the server that loses the answer to every other POST: of each that is sent again, the first."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setattr(making, "LOOKS", (0.0, 0.1))
    with spoiling(server.address) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.endpoint)
        proxy.only, proxy.plan = "POST", ["close after", ""] * POSTS
        yield proxy
        assert len(proxy.plan) < 2 * POSTS  # it did lose some


def _experiments(server: Server) -> list[str]:
    return [experiment.experiment_id for experiment in client(server.address).search_experiments()]


def _models(address: str, experiment: str, identity: str) -> list[Any]:
    return list(client(address).search_logged_models([experiment], f"tags.`sida.identity` = '{identity}'"))


def test_a_run_whose_first_answers_are_lost_is_there_once_and_whole(
    server: Server, losing: Proxy, store: ObjectStore
) -> None:
    name = f"a-{uuid.uuid4().hex[:8]}"  # a benchmark of its own: its experiment is made too
    made = Made(store, named(benchmark=name), (1.0, 1.01, 0.99))
    assert "written to MLflow" in track(made.write("run-1"))
    found = runs_of(server.address, made)  # fails where there are two of a part
    assert set(found) == {"run", "distill", "score"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [len(run.inputs.dataset_inputs) for run in found.values()] == [1, 1, 1]
    assert points(server.address, found["distill"], "loss_psi") == [(p["images"], p["loss_psi"]) for p in CURVE]
    experiment = found["run"].info.experiment_id
    assert len(client(server.address).search_runs([experiment])) == 3
    model = projection(store, "run-1").model
    assert model is not None
    (logged,) = _models(server.address, experiment, model.identity)
    assert str(logged.status) == "READY"
    assert Counter(metric.key for metric in logged.metrics) == {"fd_digits": 1, "fd_digits_sd": 1}
    there = client(server.address)
    (version,) = there.search_model_versions(f"name = '{model.name}'")
    assert version.tags["sida.identity"] == model.identity
    assert there.get_registered_model(model.name).aliases == {"champion": version.version}


def test_an_error_that_is_got_over_is_taken_away_though_the_answer_is_lost(
    server: Server, losing: Proxy, store: ObjectStore
) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1", upto="distill", failed="disk full"))
    assert "disk full" in runs_of(server.address, made)["run"].data.tags["sida.error"]
    assert "written to MLflow" in track(made.write("run-2"))
    assert "sida.error" not in runs_of(server.address, made)["run"].data.tags


def test_points_of_hundreds_of_metrics_that_are_sent_again_are_there_once(
    server: Server, losing: Proxy, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    many = {f"extra_{number}": float(number) for number in range(250)}
    monkeypatch.setattr("tests.tracking.runs.CURVE", [point | many | {"loss_nan": math.nan} for point in CURVE])
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    send, names = MlflowClient.log_batch, []

    def noting(self: Any, run_id: str, metrics: Any = (), **more: Any) -> None:
        names.append(len({metric.key for metric in metrics}))
        send(self, run_id, metrics=metrics, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", noting)
        assert "written to MLflow" in track("run-1")
    assert max(names) <= 100  # of which older servers look for what is there already
    distilled = runs_of(server.address, made)["distill"]
    expected = [point["images"] for point in CURVE]
    for name in ("extra_0", "extra_249", "loss_nan", "loss_psi"):
        assert [step for step, _ in points(server.address, distilled, name)] == expected


def test_a_making_whose_answer_does_not_come_is_not_asked_for_again_and_found_the_next_time(
    server: Server, losing: Proxy, store: ObjectStore
) -> None:
    """The answer comes neither to the making nor to the looks: the run is there, and nobody knows."""
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    track(Made(store, named(), (1.0, 1.01, 0.99)).write("run-0"))  # its experiment is there
    losing.plan = ["", "", *["close after"] * 40]  # the first two look for the run
    line = track_quietly("run-1")
    assert "completes it" in line and "\n" not in line
    (run,) = client(server.address).search_runs(_experiments(server), f"tags.`sida.recipe` = '{made.recipe.name}'")
    assert run.info.status == "RUNNING"
    losing.plan = ["close after", ""] * (POSTS - 20)
    assert "written to MLflow" in track("run-1")
    assert set(runs_of(server.address, made)) == {"run", "distill", "score"}


def test_parameters_and_tags_are_listed_as_a_person_looks_for_them(
    server: Server, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    run = runs_of(server.address, made)["run"].info.run_id
    answer = urllib3.request("GET", f"{server.address}/api/2.0/mlflow/runs/get?run_id={run}").json()["run"]["data"]
    tags = [tag["key"] for tag in answer["tags"] if not tag["key"].startswith("mlflow.")]  # as its page shows them
    first = ["verdict", "licence", "recipe", "repeat", "runs", "part"]
    assert tags[: len(first)] == [f"sida.{name}" for name in first]
    digests = [tag for tag in tags if tag.startswith("sida.digest.")]
    assert len(digests) == 8 and set(tags[-len(digests) - 2 :]) == {*digests, "sida.identity", "sida.projection"}
    parameters = [parameter["key"] for parameter in answer["params"]]
    assert parameters[0] == "name" and parameters[1] == "method.name"
    parts = list(dict.fromkeys(name.partition(".")[0] for name in parameters))
    assert parts[:5] == ["name", "method", "teacher", "dataset", "evaluation"]
