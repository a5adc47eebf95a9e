"""``--json``: one object on stdout at the end of every verb that has a result, and still one line for a mistake."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import VERBS, parser
from pipeline.engines import base as clients
from pipeline.output import NO_JSON
from tests.conftest import ROOT
from tests.pipeline.command import Command
from tests.pipeline.kfp_server import Kfp
from tests.teachers.test_convert import published


def options() -> dict[str, set[str]]:
    """Verb -> its options."""
    (verbs,) = (action for action in parser(*VERBS)._actions if isinstance(action, argparse._SubParsersAction))
    return {name: set(verb._option_string_actions) for name, verb in verbs.choices.items()}


def told(command: Command, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The object that a verb prints."""
    said = command(*arguments, "--json")
    assert said.status == status, said
    found = json.loads(said.out)  # nothing before it, nothing behind it
    assert isinstance(found, dict)
    return found


def test_every_verb_has_json_or_says_why_not() -> None:
    known = options()
    assert {name for name, given in known.items() if "--json" not in given} == NO_JSON.keys()
    for name in ("run", "teach", "score", "score-published", "verify"):
        assert {"-q", "--quiet", "-v", "--verbose"} <= known[name], name


def test_recipes_are_told_as_objects(command: Command) -> None:
    recipes = {recipe["name"]: recipe for recipe in told(command, "list")["recipes"]}
    assert recipes["cifar10-uncond"]["targets"]["best"] == 1.499
    assert recipes["digits"]["benchmark"] is None
    shown = told(command, "show", "cifar10-uncond-sid2a")
    assert shown["recipe"]["method"]["name"] == "sid2a"
    assert shown["origins"]["method.name"].startswith("cifar10-uncond-sid2a.yaml:")


def test_files_that_a_verb_writes_are_named(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "birds.yaml"
    assert told(command, "new", "birds", "--output", str(recipe)) == {"recipe": str(recipe), "detector": None}
    pickle, folder = published(tmp_path, "ddpmpp_cond"), tmp_path / "converted"
    made = told(command, "convert", str(pickle), "--output", str(folder))
    assert Path(made["weights"]).parent == Path(made["facts"]).parent == folder
    assert Path(made["weights"]).is_file() and made["tensors"] > 0
    teacher = json.dumps(str(pickle))
    recipe.write_text(f"extends: digits\nname: birds\nteacher: {{address: {teacher}}}\n")
    assert "braces" in command("pin", str(recipe), "--json").mistake()
    recipe.write_text(f"extends: digits\nname: birds\nteacher:\n  address: {teacher}\n")
    pinned = told(command, "pin", str(recipe), "--dry-run")
    assert [pin["field"] for pin in pinned["pins"]] == ["teacher"] and not pinned["written"]


def test_an_empty_store_needs_nothing(command: Command) -> None:
    assert told(command, "gc")["object_bytes"] == 0


def test_a_run_on_kubeflow_is_told_from_start_to_end(
    command: Command, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "POLL_SECONDS", 0.01)
    kfp.story = [("RUNNING", {"distill": "RUNNING"}), ("FAILED", {"distill": "FAILED"})]
    cluster = ("--profile", command.profile())
    done = told(command, "submit", "digits", *cluster, "--wait", status=1)
    assert (done["state"], done["uploaded"]) == ("FAILED", True)
    assert done["link"].endswith(done["run"])
    kfp.story = [("RUNNING", {"distill": "RUNNING"})]
    quiet = command("submit", "digits", *cluster, "--quiet")
    assert (len(quiet.out.splitlines()), quiet.err) == (1, "")
    run = quiet.out.strip()
    stands = told(command, "status", run, *cluster)
    assert (stands["state"], stands["steps"][0]["name"], stands["steps"][0]["state"]) == (
        "RUNNING",
        "distill",
        "RUNNING",
    )
    assert told(command, "cancel", run, *cluster)["state"] == "CANCELING"


def test_schedules_are_told(command: Command, kfp: Kfp) -> None:
    def schedule(*arguments: str) -> dict[str, Any]:
        return told(command, "schedule", *arguments, "--profile", command.profile())

    assert schedule("digits", "--cron", "0 3 * * 1")["state"] == "created"
    changed = schedule("digits", "--cron", "0 4 * * 1")
    assert changed["changes"] == {"cron": ["0 0 3 * * 1", "0 0 4 * * 1"]}
    assert schedule("digits", "--cron", "0 4 * * 1")["state"] == "unchanged"
    assert schedule("digits", "--pause") == {"schedule": "sida-digits", "state": "paused"}
    (listed,) = schedule("--list")["schedules"]
    assert (listed["name"], listed["cron"], listed["enabled"]) == ("sida-digits", "0 0 4 * * 1", False)
    assert schedule("digits", "--delete")["state"] == "deleted"
    assert schedule("--list")["schedules"] == []


@pytest.mark.parametrize(
    "arguments", [("run", "digist"), ("show", "digist"), ("status", "nobody"), ("track",), ("verify", "nowhere/1.json")]
)
def test_a_mistake_is_one_line_and_no_object(command: Command, arguments: tuple[str, ...]) -> None:
    command(*arguments, "--json").mistake()


def test_quiet_and_verbose_together_are_a_mistake(command: Command) -> None:
    assert "not allowed with" in command("run", "digits", "-q", "-v").mistake()


def test_verify_says_no_with_status_1_to_a_damaged_manifest(command: Command, place: Path) -> None:
    path = place / "store" / "steps" / "score" / ("0" * 64) / "1.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1, "result": {')
    said = command("verify", str(path), "--json")
    assert said.status == 1 and json.loads(said.out)["holds"] is False
    assert said.err.count("\n") == 1 and "not a manifest" in said.err and str(path) in said.err


@pytest.mark.parametrize("verb", [["gc"], ["gc", "--delete"], ["run", "digits"], ["status"], ["compare"], ["track"]])
def test_no_verb_takes_a_folder_of_something_else_for_a_store(
    command: Command, place: Path, verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.tex").touch()
    monkeypatch.setenv("SIDA_STORE", str(place / "thesis"))
    assert "thesis is no store of sida's: it holds chapter.tex" in command(*verb).mistake()
    monkeypatch.setenv("SIDA_STORE", "/")
    assert "/ is no store of sida's" in command(*verb).mistake()


@pytest.mark.parametrize("verb", ["--help", "list --help", "list", "list --json", "show digits"])
def test_output_for_which_there_is_no_room_is_told(verb: str, place: Path) -> None:
    command = [sys.executable, "-m", "pipeline", *verb.split()]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (
            ended.stderr == f"error: the output: {os.strerror(errno.ENOSPC)}: make room there, or send it elsewhere\n"
        )
        assert ended.returncode == 2
        if verb == "list":
            assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full).returncode == 2


def test_a_new_recipe_that_cannot_be_written_here_is_told_before_its_files_are_made(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.chdir(command.place)
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    line = command("new", "birds", "--train", "--images", "x").mistake()
    assert line == "error: the recipe birds.yaml: cannot be written (Read-only file system): name another place"
    assert not [*command.place.glob("*birds*")]
