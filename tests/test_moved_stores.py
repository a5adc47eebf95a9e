"""A store that is moved, copied or restored: objects lie beside the manifest that names them, wherever that was written once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import rerun, result
from pipeline.local import Outcome
from sida import records
from sida.data.prepare import prepare_data
from sida.errors import NotFound
from sida.manifests import Manifest, parse_manifest
from sida.origin import store_of
from sida.scoring.table import published_table
from sida.settings import settings
from sida.steps.execute import execute
from sida.steps.recipes import put_recipe
from sida.stores import ObjectStore, open_store
from sida.tracking.projection import projection
from tests.conftest import ROOT
from tests.pipeline.command import Command
from tests.tracking.runs import Made, recipe

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
RUN = "20261129-170000-digits-1a2b"
HOW = ["moved", "copied, the original there", "copied, the original gone"]


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, monkeypatch, capsys)


@pytest.fixture(params=HOW)
def elsewhere(request: pytest.FixtureRequest, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the records of a run and a data set, somewhere else than it was written."""
    original = open_store(settings().store)
    Made(original, recipe(), (0.6, 0.61, 0.59)).write(RUN)
    output = SimpleNamespace(path=str(place / "dataset"), metadata={})
    execute(prepare_data, output, recipe="digits", run_id="another")
    records.begin("another", "reference_statistics", 1, {"recipe": "digits", "dataset": output.path})
    return relocated(place, request.param, monkeypatch)


def relocated(place: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    there = place / "elsewhere"
    if how == "moved":
        os.rename(place / "store", there)
    else:
        shutil.copytree(place / "store", there, symlinks=True)  # times are kept, as by cp -a
    if "gone" in how:
        shutil.rmtree(place / "store")
    monkeypatch.setenv("SIDA_STORE", f"file://{there}")
    return there


def says_only_where_it_is(text: str, place: Path) -> None:
    assert str(place / "elsewhere") in text
    assert str(place / "store") not in text


def one(folder: Path, step: str) -> Path:
    (path,) = folder.glob(f"steps/{step}/*/1.json")
    return path


def test_a_run_is_told_with_the_addresses_that_its_results_have_now(elsewhere: Path, place: Path) -> None:
    store = open_store(settings().store)
    recorded = result.read_recorded(store, RUN)
    steps = [
        {"step": step, "state": "reused", "manifest": f"file://{one(elsewhere, step)}"}
        for step in ("compare", "report")
    ]
    ended = result.read(Outcome(place / "runs" / RUN, steps=steps))
    assert recorded is not None
    for summary in (recorded, ended):
        says_only_where_it_is(summary.as_text(1.0), place)
        for address in (summary.generator, summary.grid, summary.address, summary.report):
            assert Path(address.removeprefix("file://")).is_file()


def test_status_compare_and_tracking_name_the_store_that_is_read(
    command: Command, elsewhere: Path, place: Path
) -> None:
    said = command("status", RUN, "--json")
    assert said.status == 0, said.err
    says_only_where_it_is(said.out, place)
    assert all(Path(step["manifest"].removeprefix("file://")).is_file() for step in json.loads(said.out)["steps"])
    said = command("compare", "--json")
    assert said.status == 0 and "left out" not in said.err
    assert str(place / "store") not in said.out
    says_only_where_it_is((place / "runs" / "comparison" / "comparison.html").read_text(), place)
    told = projection(open_store(settings().store), RUN)
    assert told.model is not None and Path(told.model.address.removeprefix("file://")).is_file()
    says_only_where_it_is(told.model.address + told.dataset["source"], place)


def test_a_step_is_run_again_on_the_inputs_beside_its_record(elsewhere: Path, place: Path) -> None:
    call = records.call_of(open_store(settings().store), "another", "reference_statistics")
    rerun.check_inputs(call)
    says_only_where_it_is(" ".join(rerun.arguments(call, force=False)), place)


def test_what_a_step_was_given_is_recorded_where_the_step_reads(elsewhere: Path, place: Path) -> None:
    """The manifest in the file says the old store."""
    call = records.begin("new", "reference_statistics", 1, {"recipe": "digits", "dataset": str(place / "dataset")})
    assert call is not None
    says_only_where_it_is(call.inputs["dataset"].address, place)


@pytest.mark.parametrize("form", ["file://{}", "{}"])
def test_a_data_set_is_exported_from_the_store_that_its_manifest_is_in(
    command: Command, elsewhere: Path, place: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another team's too, which is not SIDA_STORE; a copy of the manifest stands for what it is a copy of."""
    (manifest,) = (path for path in elsewhere.glob("steps/prepare_data/*/1.json") if b"shard-" in path.read_bytes())
    said = command("export-webdataset", str(place / "dataset"), "--output", str(place / "of-a-copy"))
    assert said.status == 0, said.err
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'our-own'}")
    said = command("export-webdataset", form.format(manifest), "--output", str(place / "tars"))
    assert said.status == 0, said.err


def test_a_page_is_shown_from_the_step_s_own_store(elsewhere: Path, place: Path) -> None:
    from components.views import VIEWS

    manifest: Manifest[Any] = parse_manifest(one(elsewhere, "report").read_bytes(), "report")
    VIEWS["report"].show(manifest, {"page": SimpleNamespace(path=str(place / "page.html"))})
    assert "<title>page</title>" in (place / "page.html").read_text()


def test_the_address_of_a_result_that_is_shown_as_metrics_is_that_of_the_step_s_own_store(
    elsewhere: Path, place: Path
) -> None:
    from components.__main__ import _address
    from components.local import LocalArtifact

    scores = LocalArtifact(str(one(elsewhere, "score")), "system.Metrics")
    assert _address(scores) == f"file://{one(elsewhere, 'score')}"


def test_a_score_s_recipe_comes_from_the_store_of_the_step(elsewhere: Path, place: Path) -> None:
    store = open_store(settings().store)
    shutil.rmtree(place / "store", ignore_errors=True)
    manifest = parse_manifest(one(elsewhere, "score").read_bytes(), "score")
    about = manifest.about.model_copy(update={"recipe": put_recipe(store, recipe(name="mine"))})
    content = manifest.model_copy(update={"about": about}).to_json()
    store.put(f"steps/score/{about.key}/1.json", content)
    (place / "scores").write_bytes(content)
    table = published_table(recipe="digits", scores=[place / "scores"]).manifest.result
    assert [row.recipe for row in table.rows] == ["mine"]


def test_a_view_that_cannot_be_shown_ends_its_step_with_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from components import body
    from components.views import Views

    def show(*_: object) -> None:
        raise NotFound("no object at s3://bucket/objects: bring it back")

    monkeypatch.setitem(body.VIEWS, "prepare_data", Views(show))
    given = {
        "recipe": "digits",
        "attempt": "",
        "run_id": "",
        "dataset": SimpleNamespace(path=str(place / "d"), metadata={}),
    }
    with pytest.raises(SystemExit) as ended:
        body.run_step("prepare_data", given)
    assert ended.value.code == 1
    assert capfd.readouterr().err.splitlines()[-1].endswith("no object at s3://bucket/objects: bring it back")


def test_a_manifest_in_a_store_says_which_and_a_copy_is_that_of_our_store_or_of_the_one_that_it_names(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: ObjectStore = open_store(settings().store)
    manifest = Made(original, recipe(), (0.6, 0.61, 0.59)).manifests()["distill"]
    key = f"steps/distill/{manifest.about.key}/1.json"
    assert store_of(manifest, f"s3://bucket/team/{key}").address == "s3://bucket/team"
    assert store_of(manifest, f"/else/where/{key}").address == "file:///else/where"
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'own'}")
    own = open_store(settings().store)
    assert store_of(manifest).address == store_of(manifest, "/downloads/1.json").address == original.address
    own.put(key, manifest.model_copy(update={"about": manifest.about.model_copy(update={"seconds": 9.0})}).to_json())
    assert store_of(manifest).address == original.address  # another attempt of the same key
    own.put(key, manifest.to_json())
    assert store_of(manifest).address == own.address


def test_a_missing_object_is_one_line_that_says_what_to_do(command: Command, elsewhere: Path, place: Path) -> None:
    store = open_store(settings().store)
    weights = parse_manifest(one(elsewhere, "distill").read_bytes(), "distill").objects()[0]
    store.delete(weights.key)
    said = command("sample", str(one(elsewhere, "compare")), "--grid", str(place / "g.png"))
    (line,) = said.err.splitlines()
    assert said.status == 1
    assert line.startswith(f"error: no object at {store.address_of(weights.key)}: bring it back")
    assert "run its recipe again" in line and len(line) <= 300
    with pytest.raises(NotFound, match="bring it back"):
        store.read(weights.key)


# -- a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDA_STORE", f"file://{folder / 'store'}")
        patch.setenv("SIDA_RUNS", str(folder / "runs"))
        sida("run", str(TINY))
    return folder / "store"


def sida(*arguments: str) -> str:
    """All that the command said."""
    line = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def finished_elsewhere(
    request: pytest.FixtureRequest, finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    there, away = place / "elsewhere", finished.with_name("away")
    monkeypatch.setenv("SIDA_STORE", f"file://{there}")
    if request.param == "moved":
        os.rename(finished, there)
        yield there
        os.rename(there, finished)
        return
    shutil.copytree(finished, there)
    if request.param == "copied, the original gone":
        os.rename(finished, away)
    yield there
    if away.exists():
        os.rename(away, finished)


@pytest.mark.slow
@pytest.mark.parametrize("finished_elsewhere", HOW, indirect=True)
def test_a_run_is_finished_and_used_where_its_store_is_now(
    finished: Path, finished_elsewhere: Path, place: Path
) -> None:
    there, compare = finished_elsewhere, f"file://{one(finished_elsewhere, 'compare')}"
    said = [sida("run", str(TINY)), sida("verify", str(one(there, "score"))), sida("compare"), sida("status")]
    assert "8 of 8 steps reused" in said[0]
    said += [sida("sample", compare, "--seeds", "1", "--grid", str(place / "grid.png"))]
    said += [sida("export", str(one(there, "distill")), "--output", str(place / "exported"))]
    said += [sida("run", str(TINY), "--force", "report")]
    assert "7 of 8 steps reused" in said[-1]
    for text in (said[0], said[-1]):
        assert all(f"{name} file://{there}/" in " ".join(text.split()) for name in ("generator", "samples", "run"))
    assert str(finished) not in "".join(said)
    page = Path(said[-1].partition("report     file://")[2].partition("\n")[0]).read_text()
    assert f"file://{there}" in page and str(finished) not in page
