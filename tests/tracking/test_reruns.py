"""A step that is run again alone, and a run that ends badly, are heard of in MLflow."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sida import layout, records
from sida.ending import end_run
from sida.process.identity import Process, machine_id
from sida.settings import settings
from sida.steps.execute import execute
from sida.stores import ObjectStore
from sida.tracking.reconcile import track
from tests.tracking.runs import Made, recipe
from tests.tracking.test_tracking import client, runs_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own dependencies warn


@pytest.fixture
def database(place: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (place / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    return settings().mlflow


def only_run(address: str) -> Any:
    there = client(address)
    (run,) = there.search_runs([there.get_experiment_by_name("digits-8x8").experiment_id])
    return run


def test_a_step_that_is_run_again_writes_to_the_run_s_own_entry(place: Path, database: str) -> None:
    from components.__main__ import main  # what `rerun`'s Job, its KFP run and --local start
    from sida.data.prepare import prepare_data

    output = SimpleNamespace(path=str(place / "dataset"), metadata={})
    execute(prepare_data, output, recipe="digits", run_id="run-1")
    assert main(["prepare_data", "--recipe=digits", "--run-id=run-1"]) == 0
    first = only_run(database)
    assert first.data.tags["sida.runs"] == "run-1" and first.info.status == "RUNNING"
    assert main(["prepare_data", "--recipe=digits", "--run-id=run-1", "--attempt=new"]) == 0
    assert only_run(database).info.run_id == first.info.run_id
    with pytest.raises(SystemExit):
        main(["prepare_data", "--recipe=digits", "--run-id=run-1", "--attempt=sometimes"])
    again = only_run(database)
    assert again.info.status == "FAILED" and "sometimes" in again.data.tags["sida.error"]
    assert main(["prepare_data", "--recipe=digits", "--run-id=run-1"]) == 0
    assert "sida.error" not in only_run(database).data.tags


def test_a_step_outside_of_a_run_leaves_mlflow_alone(database: str) -> None:
    from components.__main__ import main

    assert main(["prepare_data", "--recipe=digits"]) == 0
    assert client(database).get_experiment_by_name("digits-8x8") is None


@pytest.mark.parametrize(("state", "status"), [("CANCELLED", "KILLED"), ("FAILED", "FAILED")])
def test_a_run_that_was_ended_says_so_until_its_steps_are_run_again(
    store: ObjectStore, database: str, state: str, status: str
) -> None:
    made = Made(store, recipe(name=f"digits-{state.lower()}"), (1.0, 1.01, 0.99))
    made.write("run-1", upto="distill")
    end_run("run-1", "digits", state, 1, "the node went away")
    track("run-1")
    run = runs_of(database, made)["run"]
    assert (run.info.status, run.data.tags["sida.error"]) == (status, "the node went away")
    made.write("run-1")  # rerun, step by step: the record of the end stays
    track("run-1")
    assert runs_of(database, made)["run"].info.status == "FINISHED"


@pytest.mark.parametrize("gone", ["killed", "before the machine was started again"])
def test_a_run_killed_whole_is_failed_once_track_sees_that_its_process_is_gone(
    place: Path, store: ObjectStore, database: str, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    made = Made(store, recipe(name=f"digits-{gone.split()[0]}"), (1.0, 1.01, 0.99))
    made.write("run-1", upto="distill")
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        call = records.calls(store, "run-1")["distill"]
        driver = f"{Process.of(sleeper.pid)} {machine_id()}"
        drive(store, call, driver)
        track("run-1")
        assert runs_of(database, made)["run"].info.status == "RUNNING"
        if gone == "killed":
            sleeper.kill()
            sleeper.wait()
        else:
            boot = machine_id().split("/")[1]
            drive(store, call, driver.replace(boot, "another-boot"))
        track("run-1")
        sleeper.kill()
    run = runs_of(database, made)["run"]
    assert run.info.status == "FAILED" and "run the recipe again" in run.data.tags["sida.error"]
    made.write("run-2")
    track("run-2")
    assert runs_of(database, made)["run"].info.status == "FINISHED"


def drive(store: ObjectStore, call: records.StepCall, driver: str) -> None:
    changed = call.model_copy(update={"driver": driver, "state": "started", "manifest": ""})
    store.put(layout.call_key(call.run, call.name), changed.model_dump_json().encode())


def test_a_run_of_another_machine_is_left_as_it_is(place: Path, store: ObjectStore, database: str) -> None:
    made = Made(store, recipe(name="digits-elsewhere"), (1.0, 1.01, 0.99))
    made.write("run-1", upto="distill")
    drive(store, records.calls(store, "run-1")["distill"], "1@1 elsewhere/boot/pid:[1]")
    track("run-1")
    assert runs_of(database, made)["run"].info.status == "RUNNING"
    assert records.end_of(store, "run-1") is None


def test_a_table_of_released_generators_is_no_run_of_one_of_their_recipes(store: ObjectStore, database: str) -> None:
    made = Made(store, recipe(name="digits-released"), (1.0, 1.01, 0.99))
    made.write("run-1", upto="prepare_data")
    call = records.calls(store, "run-1")["prepare_data"].model_copy(update={"step": "score", "item": "digits-released"})
    store.put(layout.call_key("run-1", call.name), call.model_dump_json().encode())
    assert "not told" in track("run-1")
    assert client(database).get_experiment_by_name("digits-8x8") is None
