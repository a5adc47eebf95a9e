"""MLflow agrees with the store: once, whatever is killed, repeated, away, or deleted."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sida import layout, records
from sida.errors import UserError
from sida.stores import ObjectStore, open_store
from sida.tracking.projection import benchmark_of, projection
from sida.tracking.reconcile import Reconciler, track, track_quietly
from sida.tracking.server import TrackingOff, connected
from tests.conftest import ROOT
from tests.tracking.conftest import Server
from tests.tracking.runs import CURVE, Made, MadeInTwoSteps, recipe

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own dependencies warn


def named(**changes: Any) -> Any:
    """A recipe that no other test uses."""
    return recipe(name=f"digits-{uuid.uuid4().hex[:8]}", **changes)


def client(address: str) -> Any:
    import mlflow

    mlflow.set_tracking_uri(address)
    return mlflow.MlflowClient(address)


def runs_of(address: str, made: Made) -> dict[str, Any]:
    """part -> run; fails when there are two of a part."""
    there = client(address)
    experiment = there.get_experiment_by_name(benchmark_of(made.recipe))
    found: dict[str, Any] = {}
    parents = there.search_runs([experiment.experiment_id], f"tags.`sida.recipe` = '{made.recipe.name}'")
    assert len(parents) == 1
    found["run"] = parents[0]
    query = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
    for child in there.search_runs([experiment.experiment_id], query):
        assert child.data.tags["sida.part"] not in found
        found[child.data.tags["sida.part"]] = child
    return found


def points(address: str, run: Any, name: str) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in client(address).get_metric_history(run.info.run_id, name))


def test_a_run_becomes_a_parent_and_two_children_with_everything_on_them(address: str, store: ObjectStore) -> None:
    made = Made(store, named(method={"alpha": 1.2}), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    found = runs_of(address, made)
    assert set(found) == {"run", "distill", "score"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found["run"]
    assert parent.data.params["method.alpha"] == "1.2"
    assert parent.data.tags["mlflow.source.git.commit"] == "f" * 40
    assert parent.data.tags["sida.runs"] == "run-1"
    assert parent.data.metrics["fd_digits_n200_generator"] == pytest.approx(1.0)
    assert points(address, found["distill"], "loss_psi") == [(p["images"], p["loss_psi"]) for p in CURVE]
    history = client(address).get_metric_history(found["distill"].info.run_id, "loss_psi")
    seconds = [(point.timestamp - found["distill"].info.start_time) / 1000 for point in history]
    assert seconds == [pytest.approx(1.5 * p["images"] / 1200, abs=0.002) for p in CURVE]  # for charts over time
    assert points(address, found["distill"], "selection_fd_digits_n5000") == [(400, 0.75), (800, 0.375), (1200, 0.25)]
    assert points(address, found["score"], "fd_digits_n200_of_range") == [(0, 1.0), (1, 1.01), (2, 0.99)]
    there = client(address)
    files = {item.path for item in there.list_artifacts(parent.info.run_id)}
    assert {"recipe.json", "report.html", "samples.png", "nearest.png", "manifests", "samples"} <= files
    page = Path(there.download_artifacts(parent.info.run_id, "report.html"))
    assert page.read_text().startswith("<!doctype html>")
    (data,) = parent.inputs.dataset_inputs
    assert made.manifests()["prepare_data"].digest.startswith(data.dataset.digest)


def test_a_generator_of_two_steps_has_its_score_by_steps_and_a_registered_model_of_its_own(store: ObjectStore) -> None:
    run = MadeInTwoSteps(store, recipe(method={"steps": 2}), (0.6, 0.61, 0.59)).write("run-1")
    found = projection(store, run)
    metrics = next(child.metrics for child in found.children if child.identity.split("/")[1] == "score")
    by_steps = {step: value for name, value, step in metrics if name == "fd_digits_n200_by_steps"}
    assert by_steps == pytest.approx({1: 1.2, 2: 0.6})
    assert found.model is not None and found.model.name == "digits-8x8-fd_digits-n200-2-steps"
    one = projection(store, Made(store, recipe(), (0.7, 0.71, 0.69)).write("run-2"))
    assert one.model is not None and one.model.name == "digits-8x8-fd_digits-n200"
    assert not [name for child in one.children for name, _, _ in child.metrics if "by_steps" in name]


def test_the_load_of_the_machine_is_written_under_mlflow_s_names_where_it_was_sampled(
    address: str, store: ObjectStore
) -> None:
    made, name = Made(store, named(), (1.0, 1.01, 0.99)), "system/cpu_utilization_percentage"
    (about,) = (manifest.about for step, manifest in made.manifests().items() if step == "distill")
    samples = [{"images": 600, name: 93.5}, {"images": 1200, name: 95.0}]
    folder = layout.job_folder(about.step, about.key, about.attempt)
    store.put(f"{folder}/{layout.SYSTEM_METRICS}", json.dumps(samples).encode())
    track(made.write("run-1"))
    assert points(address, runs_of(address, made)["distill"], name) == [(600, 93.5), (1200, 95.0)]


def test_tracking_again_adds_nothing_and_another_run_of_the_same_recipe_joins(address: str, store: ObjectStore) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    assert "already" in track("run-1")
    before = points(address, runs_of(address, made)["distill"], "loss_psi")
    other = Made(store, made.recipe, (1.0, 1.01, 0.99), minute=5)  # the same results, made again at another time
    track(other.write("run-2"))
    found = runs_of(address, made)
    assert points(address, found["distill"], "loss_psi") == before
    assert found["run"].data.tags["sida.runs"] == "run-1 run-2"
    track(Made(store, made.recipe, (1.0, 1.01, 0.99)).write("run-3", repeat="2026-12-01"))
    there = client(address)
    experiment = there.get_experiment_by_name(benchmark_of(made.recipe)).experiment_id
    repeats = there.search_runs([experiment], f"tags.`sida.recipe` = '{made.recipe.name}'")
    assert sorted(run.data.tags["sida.repeat"] for run in repeats) == ["", "2026-12-01"]  # a repeat is another run


def test_what_is_said_of_a_run_does_not_depend_on_which_of_two_steps_started_first(store: ObjectStore) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.seconds = {"prepare_data": 0.1, "fetch_teacher": 0.2, "reference_statistics": 0.3, "score_teacher": 0.0}
    made.seconds |= dict.fromkeys(
        ("distill", "score", "compare", "report"), 0.0
    )  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1
    digests = set()
    for run, steps in (("run-1", ("prepare_data", "reference_statistics")), ("run-2", ())):
        made.write(run)
        calls = records.calls(store, run)
        for step, other in zip(steps, reversed(steps), strict=True):
            swapped = calls[step].model_copy(update={"started": calls[other].started})
            store.put(layout.call_key(run, step), swapped.model_dump_json().encode())
        digests.add(projection(store, run).digest)
    assert len(digests) == 1


def test_no_weights_and_no_data_go_to_mlflow_whatever_its_limit_for_a_file_is(store: ObjectStore) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    content = projection(store, made.write("run-1"))
    sent = {key for node in (content.parent, *content.children) for key in node.artifacts.values()}
    results = made.results()
    large = [results["distill"].weights, results["fetch_teacher"].weights, results["prepare_data"].shards[0].object]
    assert results["distill"].curve.key in sent and results["report"].page.key in sent
    assert sent.isdisjoint(ref.key for ref in large)


class Killed(BaseException):
    """As sudden as SIGKILL: nothing in the code under test catches it."""


@pytest.mark.parametrize("calls", [1, 6, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 9, 12, 16, 20, 24))])
def test_a_reconciler_killed_anywhere_is_completed_by_the_next(
    address: str, store: ObjectStore, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address.startswith("http") and calls % 2:
        pytest.skip("the same as with SQLite; half of them suffice")
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    count = 0

    class Mortal:
        """A client that writes ``calls`` times, then never again."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._real, name)
            if name.startswith(("get", "search", "list")):
                return method

            def write(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count > calls:
                    raise Killed
                return method(*args, **options)

            return write

    with pytest.raises(Killed):
        Reconciler(Mortal(client(address)), store, address, "").reconcile(projection(store, "run-1"))
    track("run-1")
    found = runs_of(address, made)
    assert set(found) == {"run", "distill", "score"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(points(address, found["distill"], "loss_psi")) == len(CURVE)
    versions = client(address).search_model_versions("name = 'digits-8x8-fd_digits-n200'")
    identity = projection(store, "run-1").model.identity  # type: ignore[union-attr]
    assert len([v for v in versions if v.tags["sida.identity"] == identity]) == 1


def test_two_reconcilers_at_once_leave_one_run(address: str, store: ObjectStore) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    command = [sys.executable, "-m", "pipeline", "track", "run-1"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(points(address, runs_of(address, made)["distill"], "loss_psi")) == len(CURVE)


@pytest.mark.slow
def test_a_server_that_is_away_stops_nothing_and_is_filled_later(
    place: Path, store: ObjectStore, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, place / "server.db")
    server = Server(place, place / "server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    line = track_quietly("run-1")
    assert "does not answer" in line and "track" in line and "\n" not in line
    with pytest.raises(TrackingOff):
        track("run-1")
    server.start()
    try:
        track("run-1")
        assert set(runs_of(server.address, made)) == {"run", "distill", "score"}
    finally:
        server.stop()


def test_a_deleted_database_is_filled_again_as_it_was(
    place: Path, store: ObjectStore, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(name: str) -> tuple[Any, Any]:
        shutil.copy(empty_database, place / name)
        address = f"sqlite:///{place / name}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        for run in ("run-1", "run-2", "run-3"):
            track(run)
        found = [
            {part: (run.data, run.info.status, run.info.end_time) for part, run in runs_of(address, m).items()}
            for m in made
        ]
        text = [
            {p: (sorted(d.metrics.items()), sorted(d.params.items()), s, e) for p, (d, s, e) in run.items()}
            for run in found
        ]
        there = client(address)
        aliases = there.get_registered_model("digits-8x8-fd_digits-n200").aliases
        tags = {
            alias: there.get_model_version("digits-8x8-fd_digits-n200", version).tags["sida.sha256"]
            for alias, version in aliases.items()
        }
        return text, tags

    scores = [(1.0, 1.01, 0.99), (0.6, 0.61, 0.59), (0.6, 0.7, 0.5)]
    made = [Made(store, named(), values, minute=number) for number, values in enumerate(scores)]
    for number, run in enumerate(made):
        run.write(f"run-{number + 1}")
    first = fill("first.db")
    assert set(first[1]) == {"champion", "challenger"}
    assert fill("second.db") == first


def test_the_champion_moves_only_to_a_generator_that_is_better_by_more_than_the_interval(
    place: Path, store: ObjectStore, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, place / "mlflow.db")
    address = f"sqlite:///{place / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def aliases() -> dict[str, str]:
        found = client(address).get_registered_model("digits-8x8-fd_digits-n200").aliases
        return {alias: str(version) for alias, version in found.items()}

    def alias_after(run: str, values: tuple[float, ...], minute: int) -> dict[str, str]:
        made = Made(store, named(), values, minute)
        track(made.write(run))
        return aliases()

    assert alias_after("a", (1.0, 1.1, 0.9), 0) == {"champion": "1"}
    assert alias_after("b", (0.98, 1.08, 0.88), 1) == {
        "champion": "1",
        "challenger": "2",
    }  # better, within the interval
    assert alias_after("c", (0.5, 0.6, 0.4), 2) == {"champion": "3", "challenger": "2"}
    assert alias_after("d", (2.0, 2.1, 1.9), 3) == {"champion": "3", "challenger": "4"}
    track("c")
    assert aliases() == {"champion": "3", "challenger": "4"}
    version = client(address).get_model_version_by_alias("digits-8x8-fd_digits-n200", "champion")
    assert version.tags["sida.address"].startswith(store.address)
    assert version.tags["licence"] == "Apache-2.0"
    (logged,) = client(address).search_logged_models(
        [client(address).get_experiment_by_name("digits-8x8").experiment_id],
        f"tags.`sida.sha256` = '{version.tags['sida.sha256']}'",
    )
    assert {m.key: (m.value, m.dataset_name) for m in logged.metrics}["fd_digits_n200"] == (0.5, "digits-8x8")


def test_what_mlflow_downloads_as_the_champion_says_where_the_weights_are_and_how_to_sample(
    address: str, store: ObjectStore, tmp_path: Path
) -> None:
    from mlflow.artifacts import download_artifacts

    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    experiment = client(address).get_experiment_by_name(benchmark_of(made.recipe))
    for model in client(address).search_logged_models([experiment.experiment_id]):
        folder = download_artifacts(artifact_uri=f"models:/{model.model_id}", dst_path=str(tmp_path))
        told = json.loads(Path(folder, "generator.json").read_text())
        assert told["weights"] == model.tags["sida.address"]
        assert told["sample"].startswith(f"sida sample {told['weights']} ")
        assert (told["sha256"], told["licence"]) == (model.tags["sida.sha256"], "Apache-2.0")
    folder = download_artifacts(
        artifact_uri="models:/digits-8x8-fd_digits-n200@champion", dst_path=str(tmp_path), tracking_uri=address
    )
    assert Path(folder, "generator.json").is_file()


def test_a_model_is_where_its_store_is_after_that_was_moved(
    address: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts

    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    os.rename(store.address.removeprefix("file://"), tmp_path / "moved")
    moved = open_store(str(tmp_path / "moved"))
    monkeypatch.setenv("SIDA_STORE", moved.address)
    assert "written to MLflow" in track("run-1")
    assert "already in MLflow" in track("run-1")
    there = client(address)
    experiment = there.get_experiment_by_name(benchmark_of(made.recipe))
    models = there.search_logged_models([experiment.experiment_id])
    (model,) = (model for model in models if model.tags["sida.address"].startswith(moved.address))
    (version,) = (
        version
        for version in there.search_model_versions("name = 'digits-8x8-fd_digits-n200'")
        if version.tags["sida.sha256"] == model.tags["sida.sha256"]
    )
    assert version.tags["sida.address"] == model.tags["sida.address"]
    assert model.tags["sida.address"] in version.description
    folder = download_artifacts(artifact_uri=f"models:/{model.model_id}", dst_path=str(tmp_path), tracking_uri=address)
    assert json.loads(Path(folder, "generator.json").read_text())["weights"] == model.tags["sida.address"]


def test_a_failed_run_is_failed_until_the_same_recipe_is_finished(address: str, store: ObjectStore) -> None:
    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1", upto="distill", failed="disk full"))
    assert runs_of(address, made)["run"].info.status == "FAILED"
    assert "disk full" in runs_of(address, made)["run"].data.tags["sida.error"]
    track(made.write("run-2"))
    assert runs_of(address, made)["run"].info.status == "FINISHED"
    assert "sida.error" not in runs_of(address, made)["run"].data.tags
    track(made.write("run-3", upto="score", failed="disk full"))
    assert runs_of(address, made)["run"].info.status == "FINISHED"


def test_ours_are_nested_under_the_run_of_kubeflows_plugin_which_stays_as_it_is(
    address: str, place: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = client(address)
    files = (place / "kfp").as_uri() if address.startswith("sqlite") else None  # else ./mlruns
    experiment = there.create_experiment(f"kfp-{uuid.uuid4().hex[:8]}", files)
    above = there.create_run(experiment, run_name="kfp's own", tags={"kfp": "yes"})
    monkeypatch.setenv("MLFLOW_RUN_ID", above.info.run_id)
    made = Made(store, named(), (1.0, 1.01, 0.99))
    track(made.write("run-1"))
    (ours,) = there.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{above.info.run_id}'")
    assert ours.data.tags["sida.recipe"] == made.recipe.name
    assert len(there.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{ours.info.run_id}'")) == 2
    after = there.get_run(above.info.run_id)
    assert after.data.params == {} and after.data.metrics == {}
    assert (after.info.status, after.info.run_name, after.data.tags["kfp"]) == ("RUNNING", "kfp's own", "yes")
    assert not [tag for tag in after.data.tags if tag.startswith("sida")]


def test_what_cannot_be_tracked_is_said_in_a_line(
    place: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    with pytest.raises(UserError, match="no run 'nothing'"):
        track("nothing")
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs the full mlflow" in track_quietly("run-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert track_quietly("run-1") == ""
    assert not (place / "mlflow.db").exists()


def test_a_run_that_is_there_already_is_seen_without_importing_mlflow(
    place: Path, store: ObjectStore, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, place / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    track(Made(store, named(), (1.0, 1.01, 0.99)).write("run-1"))
    code = "import sys; from sida.tracking.reconcile import track; print(track('run-1'), 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "run run-1: already in MLflow False"


def test_hundreds_of_metrics_some_of_them_not_finite_lose_neither_run_nor_model(
    address: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"extra_{number}": float(number) for number in range(250)}
    strange = {"loss_nan": math.nan, "loss_inf": math.inf, "loss_minus": -math.inf}
    monkeypatch.setattr("tests.tracking.runs.CURVE", [point | many | strange for point in CURVE])
    made = Made(store, named(benchmark=f"b-{uuid.uuid4().hex[:8]}"), (1.0, 1.01, 0.99))
    assert "written to MLflow" in track(made.write("run-1"))
    found, there = runs_of(address, made), client(address)
    assert len(found["distill"].data.metrics) > 250
    assert len(points(address, found["distill"], "loss_nan")) == len(CURVE)
    model = projection(store, "run-1").model
    assert model is not None and list(there.get_registered_model(model.name).aliases) == ["champion"]
    (logged,) = there.search_logged_models([found["run"].info.experiment_id])
    assert str(logged.status) == "READY"
    there.delete_tag(found["run"].info.run_id, "sida.projection")
    assert "written to MLflow" in track("run-1")
    assert len(points(address, found["distill"], "loss_nan")) == len(CURVE)


def _lock(path: Path) -> sqlite3.Connection:
    held = sqlite3.connect(path)
    held.execute("begin exclusive")
    return held


def _damage(path: Path) -> None:
    path.write_bytes(b"\x01\x02\x03" * 5000)


def _damage_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _take_writing(path: Path) -> None:
    path.chmod(0o444)
    path.with_name(f"{path.name}.lock").touch()
    path.parent.chmod(0o555)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lock, "database is locked"),
        (_damage, "file is not a database"),
        (_damage_inside, "malformed"),
        (_make_a_folder, "unable to open database file"),
        (_take_writing, "readonly database"),
    ],
)
def test_a_database_that_cannot_be_written_is_a_line_and_nothing_else(
    place: Path,
    store: ObjectStore,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path], sqlite3.Connection | None],
    said: str,
) -> None:
    if spoil is _take_writing and os.geteuid() == 0:
        pytest.skip("root writes everything")
    monkeypatch.setattr("sida.tracking.server.LOCKED_SECONDS", 0.1)
    (folder := place / "tracked").mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    Made(store, named(), (1.0, 1.01, 0.99)).write("run-1")
    held = spoil(folder / "mlflow.db")
    line = track_quietly("run-1")
    assert line.startswith("tracking: MLflow at sqlite:///") and said in line and "completes it" in line
    assert len(line) <= 300 and "\n" not in line
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err
    if held is not None:
        held.close()
    folder.chmod(0o755)


def test_a_disk_that_fills_while_a_run_is_tracked_is_a_line(
    place: Path, store: ObjectStore, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy.exc

    shutil.copy(empty_database, place / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    made = Made(store, named(), (1.0, 1.01, 0.99))
    made.write("run-1")
    full = sqlalchemy.exc.OperationalError("INSERT " * 99, {}, sqlite3.OperationalError("database or disk is full"))

    def fail(*_: Any) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(Reconciler, "_write", fail)
        line = track_quietly("run-1")
    assert "database or disk is full" in line and "INSERT" not in line and len(line) <= 300
    assert "written to MLflow" in track("run-1")


def test_an_error_of_any_kind_while_tracking_is_a_line(
    place: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("whatever")

    monkeypatch.setattr("sida.tracking.reconcile.projection", fail)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    line = track_quietly(Made(store, named(), (1.0, 1.01, 0.99)).write("run-1"))
    assert line == "tracking: KeyError: 'whatever': `sida track` completes it"


def test_two_processes_do_not_make_the_database_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{place / 'new' / 'mlflow.db'}"
    monkeypatch.setattr("sida.tracking.server.TURN_SECONDS", 0.2)
    with (
        connected(address),
        pytest.raises(TrackingOff, match="another process has been writing to it"),
        connected(address),
    ):
        pass


def test_a_database_is_made_whole_or_not_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "mlflow.db"

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.search_experiments", fail)
        with pytest.raises(TrackingOff, match="disk is full"), connected(f"sqlite:///{path}"):
            pass
    assert not path.exists() or not path.stat().st_size
    (place / "mlflow.db.1.new").write_bytes(b"of one that was killed")
    with connected(f"sqlite:///{path}") as there:
        assert there.search_experiments()
    assert path.stat().st_size and not list(place.glob("*.new"))


@pytest.mark.slow
def test_runs_of_two_benchmarks_that_are_the_first_to_be_tracked_are_tracked(place: Path, store: ObjectStore) -> None:
    code = "import sys; from sida.tracking.reconcile import track; print(track(sys.argv[1]))"
    for number in (1, 2):
        Made(store, named(benchmark=f"Benchmark {number}"), (1.0, 1.01, 0.99)).write(f"run-{number}")
    there = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}"}
    begun = [
        subprocess.Popen([sys.executable, "-c", code, f"run-{number}"], cwd=ROOT, env=there, stdout=subprocess.PIPE)
        for number in (1, 2)
    ]
    for process in begun:
        assert b"written to MLflow" in process.communicate(timeout=200)[0]


@pytest.mark.parametrize(
    "title", ["it's", 'a "b" c', "Faces 64/64: mine", "`%_\\\\", "..", "../../up", "é" * 200, "CIFAR-10"]
)
def test_any_title_of_a_benchmark_can_be_tracked(address: str, store: ObjectStore, place: Path, title: str) -> None:
    made = Made(store, named(benchmark=title), (1.0, 1.01, 0.99))
    assert "written to MLflow" in track(made.write("run-1"))
    assert "already in MLflow" in track("run-1")
    assert set(runs_of(address, made)) == {"run", "distill", "score"}
    assert {path.name for path in place.iterdir()} <= {
        "mlflow.db",
        "mlflow.db.lock",
        "mlflow-artifacts",
        "store",
        "cache",
        "runs",
    }


def test_a_user_without_a_home_is_tracked_too(address: str, store: ObjectStore) -> None:
    Made(store, named(), (1.0, 1.01, 0.99)).write("run-1")
    nobody = "import os, pwd; del os.environ['HOME']; pwd.getpwuid = lambda uid: {}[uid]; "
    code = nobody + "from sida.tracking.reconcile import track; print(track('run-1'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "written to MLflow" in done.stdout, done.stderr


def test_a_login_in_mlflows_address_is_in_no_line(
    place: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ailing(BaseHTTPRequestHandler):
        """Well at first sight; then it refuses, fails, or breaks off."""

        status = 500

        def do_GET(self) -> None:
            if self.path == "/health" or self.status:
                self.send_response(200 if self.path == "/health" else self.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    Made(store, named(), (1.0, 1.01, 0.99)).write("run-1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Ailing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hushhush@127.0.0.1:{server.server_port}")
        for Ailing.status in (500, 401, 404, 0):
            line = track_quietly("run-1")
            assert line.startswith("tracking: MLflow at http://127.0.0.1:") and line.isprintable(), line
            assert "hushhush" not in line and len(line) <= 300
        server.shutdown()
