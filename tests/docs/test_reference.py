"""The documentation says what the code does: every command, field and setting is there, and the pages build."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import profile
from scripts import reference
from sida import recipe
from tests.conftest import ROOT


def test_the_reference_has_every_verb_option_field_and_setting() -> None:
    """Their words may lag behind the code until the pages are built; a name may not."""
    names = {line.split("|")[1].strip() for line in reference.text().splitlines() if line.startswith("|")}
    names |= {line for line in reference.text().splitlines() if line.startswith("#")}
    there = reference.PAGE.read_text(encoding="utf-8")
    assert not [name for name in names if name not in there], "run `python -m scripts.reference`"


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
