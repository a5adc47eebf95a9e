"""Kubeflow's pages lead to the run in MLflow, before it is there and after, and never wait for it."""

from __future__ import annotations

import time
import uuid
from urllib.parse import parse_qs, urlsplit

import pytest

from sida.stores import ObjectStore
from sida.tracking.links import mlflow_link
from sida.tracking.reconcile import track
from tests.tracking.conftest import Server
from tests.tracking.runs import Made, recipe

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own dependencies warn


def test_there_is_no_link_without_a_server(place: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlflow_link("digits", "run-1") == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    assert mlflow_link("digits", "run-1") == ""


def test_a_server_that_is_away_costs_no_time_and_its_first_page_is_linked_without_the_password(
    place: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:hidden@127.0.0.1:1")
    started = time.monotonic()
    assert mlflow_link("digits", "run-1") == "http://127.0.0.1:1/#/experiments"
    assert time.monotonic() - started < 5
    monkeypatch.setenv("SIDA_MLFLOW_UI", "https://mlflow.example.org/")
    assert mlflow_link("digits", "run-1") == "https://mlflow.example.org/#/experiments"


@pytest.mark.slow
def test_the_link_is_known_before_the_run_and_finds_it_afterwards(
    server: Server, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    name = f"a-{uuid.uuid4().hex[:8]}"  # a benchmark of its own: no experiment yet
    made = Made(store, recipe(name=name, benchmark=name), (1.0, 1.01, 0.99))
    made.write(f"run-{name}", upto="score")
    from sida.steps.recipes import recipe_address

    link = mlflow_link(recipe_address(made.recipe), f"run-{name}")
    made.write(f"run-{name}")
    track(f"run-{name}")
    page, _, query = urlsplit(link).fragment.partition("?")
    client = mlflow.MlflowClient(server.address)
    experiment = client.get_experiment_by_name(name)
    assert page == f"/experiments/{experiment.experiment_id}/runs"
    asked = parse_qs(query)
    assert asked["workflowType"] == ["machine_learning"]  # the pages for training, whatever its user saw last
    (found,) = client.search_runs([experiment.experiment_id], asked["searchFilter"][0])
    assert found.data.tags["sida.recipe"] == name

    above = client.create_run(experiment.experiment_id).info.run_id  # Kubeflow's own
    monkeypatch.setenv("MLFLOW_RUN_ID", above)
    page = f"/#/experiments/{experiment.experiment_id}/runs/{above}?workflowType=machine_learning"
    assert mlflow_link("digits", "x") == server.address + page
