"""``pin`` writes digests into a recipe and changes nothing else."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from sida import recipe as recipes
from tests.conftest import ROOT
from tests.foreign.web import serve
from tests.pipeline.command import Command

MINE = """\
# my own
extends: digits
name: mine
teacher:
  address: {address}  # from a friend
  licence: mine
evaluation:
  detector:
    address: detector.safetensors
    sha256: null
    features: 64
"""


def test_pin_fills_in_what_is_missing_keeps_every_other_line_and_does_nothing_the_second_time(
    command: Command, place: Path
) -> None:
    shutil.copy(ROOT / "recipes" / "assets" / "digits-detector.safetensors", place / "detector.safetensors")
    path = place / "mine.yaml"
    with serve(b"weights") as web:
        path.write_text(before := MINE.format(address=web.address))
        said = command("pin", str(path), "--dry-run")
        assert said.status == 0 and "2 digests would be written" in said.out and path.read_text() == before
        said = command("pin", str(path))
        assert said.status == 0 and len(web.asked) == 1
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f"teacher: {digest}" in said.out and "evaluation.detector: 0e74cae7" in said.out
    after = path.read_text().splitlines()
    assert [line for line in after if "sha256" not in line] == [
        line for line in before.splitlines() if "sha256" not in line
    ]
    assert recipes.load(str(path)).teacher.sha256 == digest
    assert "every address has its digest" in command("pin", str(path)).out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: digits\nname: mine\nteacher: {address: x.pkl, sha256: null}\n", "written in braces"),
        ("extends: digits\nname: mine\nteacher:\n  address: none.pkl\n  sha256: null\n", "no such file"),
        ("extends: digits\nname: mine\ntaecher: 1\n", "unknown key"),
    ],
)
def test_a_recipe_that_cannot_be_pinned_stays_as_it_is(command: Command, place: Path, text: str, said: str) -> None:
    path = place / "mine.yaml"
    path.write_text(text)
    assert said in command("pin", str(path)).mistake()
    assert path.read_text() == text and sorted(p.name for p in place.glob("*mine*")) == ["mine.yaml"]
