"""The documentation says what the code does: every command, field and setting is there, and the pages build."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import profile
from scripts import errors, reference
from sida import recipe
from tests.conftest import ROOT


def test_the_reference_is_what_the_code_says() -> None:
    same = reference.PAGE.read_text(encoding="utf-8") == reference.page()
    assert same, "run `python -m scripts.reference`, and look at what changed"


def test_every_command_and_option_says_what_it_is_for() -> None:
    silent = [
        f"{name} {shown}"
        for name, verb in reference.verbs().items()
        for shown, said in reference.options(verb)
        if not said
    ]
    assert not silent
    assert all(verb.description for verb in reference.verbs().values())


@pytest.mark.parametrize("model", [recipe.Recipe, profile.Profile])
def test_every_field_says_what_it_means(model: type) -> None:
    import yaml

    given = yaml.safe_load(reference.SAID.read_text(encoding="utf-8"))
    silent = [path for path, _, _, said in reference.fields(model, given) if not said]
    assert not silent, "add a comment behind the field, or a line in scripts/fields.yaml"


def test_the_list_of_errors_is_what_the_code_says() -> None:
    same = errors.PAGE.read_text(encoding="utf-8") == errors.page()
    assert same, "run `python -m scripts.errors`, and look at what changed"


def test_every_family_of_errors_has_an_example_that_the_code_can_say_and_a_remedy() -> None:
    sorted_in = errors.by_family(errors.messages())
    for family in errors.families():
        found = sorted_in[family["title"]]
        assert any(message.looks_like(family["example"]) for message in found), family["title"]
        assert len(family["remedy"].split()) > 5


def test_every_class_of_errors_is_in_the_list() -> None:
    assert errors.OWN.keys() <= {message.kind for message in errors.messages()}


def test_a_new_message_changes_the_list_and_a_new_file_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    new = errors.Message("sida/new_subject.py", "UserError", "a new one", 2)
    with pytest.raises(KeyError, match=r"sida/new_subject.py: name it in scripts/errors.yaml"):
        errors.by_family([new])
    known = errors.Message("sida/settings.py", "UserError", "a new one", 2)
    there = errors.messages()
    monkeypatch.setattr(errors, "messages", lambda: [*there, known])
    assert "`` a new one ``" in errors.page()


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([\w/-]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_pages_build_strictly_and_need_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', page.read_text(encoding="utf-8")
        ), page
