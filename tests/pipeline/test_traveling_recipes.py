"""A recipe of one's own that extends a shipped one: sent from a checkout, read by pods whose image has the project elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sida import recipe
from sida.errors import RecipeError
from tests.conftest import ROOT
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

TEACHER = "assets/digits-teacher.safetensors"


@pytest.fixture
def store(s3_endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that this machine and pods share."""
    for name, value in (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    return f"s3://{BUCKET}/{place.name}"


@pytest.fixture
def mine(place: Path) -> str:
    """A recipe that extends the digits and changes their method alone."""
    path = place / "own.yaml"
    path.write_text("extends: digits\nname: mine\nmethod: {images: 1280}\n")
    return str(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has under /app."""
    app = tmp_path_factory.mktemp("image") / "app"
    for name in ("sida", "recipes", "components", "pipeline", "profiles"):
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    return app


def pod(app: Path, step: str, parameter: str, store: str) -> subprocess.CompletedProcess[str]:
    """A step's command in a pod."""
    command = [sys.executable, "-m", "components", step, f"--recipe={parameter}"]
    environment = os.environ | {"PYTHONPATH": str(app), "SIDA_STORE": store}
    return subprocess.run(command, cwd=app, env=environment, capture_output=True, text=True, check=False)


def submitted(command: Command, kfp: Kfp, mine: str, store: str) -> str:
    """The parameter ``recipe`` of the run."""
    said = command("submit", mine, "--profile", command.profile(("s3://bucket/sida", store)))
    assert said.status == 0, said.err
    (run,) = kfp.runs.values()
    return str(run["runtime_config"]["parameters"]["recipe"])


def test_a_submitted_recipe_finds_the_shipped_teacher_in_the_image_and_what_it_changes_holds(
    command: Command, kfp: Kfp, mine: str, store: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = submitted(command, kfp, mine, store)
    done = pod(image, "fetch_teacher", parameter, store)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SIDA_STORE", store)
    from sida.steps.recipes import recipe_at

    assert recipe_at(parameter) == recipe.load(mine)  # and here they are those of this checkout


def test_an_image_with_another_file_or_without_it_ends_with_the_digest_or_the_path(
    command: Command, kfp: Kfp, mine: str, store: str, image: Path, tmp_path: Path
) -> None:
    parameter = submitted(command, kfp, mine, store)
    app = tmp_path / "older"
    shutil.copytree(image, app)
    (app / "recipes" / TEACHER).write_bytes(b"another")
    done = pod(app, "fetch_teacher", parameter, store)
    assert (done.returncode, "sha256 is" in done.stderr) == (2, True), done.stderr
    (app / "recipes" / TEACHER).unlink()
    done = pod(app, "fetch_teacher", parameter, store)
    assert (done.returncode, f"{app}/recipes/{TEACHER}: no such file" in done.stderr) == (2, True), done.stderr


def test_compile_schedule_and_cron_jobs_take_such_a_recipe_too(
    command: Command, kfp: Kfp, mine: str, store: str
) -> None:
    where = command.profile(("s3://bucket/sida", store))
    compiled = command("compile", mine, "--profile", where)
    default = next(yaml.safe_load_all(compiled.out))["root"]["inputDefinitions"]["parameters"]["recipe"]
    assert default["defaultValue"].startswith("mine#sha256=")
    assert command("schedule", mine, "--profile", where, "--cron", "0 3 * * 1").status == 0
    assert command("rerun", "--cronjobs", mine, "--profile", where).status == 0


def test_the_file_of_the_project_needs_a_digest_and_a_file_beside_it_is_refused_as_ever(
    command: Command, place: Path
) -> None:
    path = place / "own.yaml"
    text = "extends: digits\nname: mine\nteacher: {{address: {}{}}}\n"
    path.write_text(text.format(recipe.RECIPES / TEACHER, ", sha256: null"))
    line = command("compile", str(path), "--profile", command.profile()).mistake()
    assert "teacher.address" in line and f"sida pin {path}" in line
    path.write_text(text.format(ROOT / "tests" / "recipes" / "tiny.yaml", f", sha256: {'a' * 64}"))
    line = command("compile", str(path), "--profile", command.profile()).mistake()
    assert "teacher.address" in line and "pods cannot read" in line


def test_a_recipe_may_name_a_file_of_the_project_by_its_own_address(place: Path) -> None:
    path = place / "own.yaml"
    path.write_text(f"extends: digits\nname: mine\nteacher: {{address: 'recipes://{TEACHER}'}}\n")
    assert recipe.load(str(path)).teacher.address == (recipe.RECIPES / TEACHER).as_uri()


@pytest.mark.parametrize(
    "address", ["recipes://../secret", "recipes:///etc/passwd", "recipes://assets/%2e%2e/%2e%2e/x"]
)
def test_no_address_leads_out_of_the_project_s_recipes(place: Path, address: str) -> None:
    path = place / "own.yaml"
    path.write_text(f"extends: digits\nname: mine\nteacher: {{address: '{address}'}}\n")
    with pytest.raises(RecipeError, match=r"own\.yaml: address.* leads (out|up)"):
        recipe.load(str(path))


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_is_the_same_after_its_travels_and_holds_no_path_of_this_machine(name: str) -> None:
    loaded = recipe.load(name)
    sent = recipe.traveling(loaded)
    assert recipe.parse(json.loads(sent), name) == loaded
    assert str(ROOT) not in sent.decode()


def recipes_kept(store: str) -> list[str]:
    """What ``gc`` keeps recipes for, after it has removed whatever else it may."""
    from sida.steps import garbage
    from sida.stores import open_store

    opened = open_store(store)
    garbage.remove_garbage(opened)
    kinds = []
    for key in opened.list("recipes/"):
        digest, kind = key.split("/")[1:]
        assert opened.exists(f"objects/{digest[:2]}/{digest}.json")
        kinds.append(kind.partition("-")[0].removesuffix(".json"))
    assert len(opened.list("objects/")) == len({key.split("/")[1] for key in opened.list("recipes/")})
    return sorted(kinds)


def test_the_recipe_of_a_submission_or_schedule_is_kept_as_long_as_that(
    command: Command, kfp: Kfp, mine: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engines import kubeflow_schedules
    from sida.steps import garbage

    monkeypatch.setattr(garbage, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(kubeflow_schedules, "QUIET_ATTEMPTS", 0)
    profile = command.profile(("s3://bucket/sida", store))

    def scheduled(*more: str) -> None:
        said = command("schedule", mine, "--profile", profile, "--name", "nightly", *more)
        assert said.status == 0, said.err

    scheduled("--cron", "0 3 * * *")
    assert recipes_kept(store) == ["schedule"]
    scheduled("--pause")
    assert recipes_kept(store) == ["schedule"]
    Path(mine).write_text(Path(mine).read_text().replace("1280", "2560"))
    scheduled("--cron", "0 3 * * *")
    assert recipes_kept(store) == ["schedule"]  # that of the recipe before is gone
    scheduled("--delete")
    assert recipes_kept(store) == []
    assert command("submit", mine, "--profile", profile).status == 0
    assert recipes_kept(store) == ["submitted"]
