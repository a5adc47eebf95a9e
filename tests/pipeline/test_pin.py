"""``pin`` writes digests into a recipe and changes nothing else."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save

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
    weights = save({"weight": np.zeros(3, np.float32)})
    with serve(weights) as web:
        path.write_text(before := MINE.format(address=web.address))
        said = command("pin", str(path), "--dry-run")
        assert said.status == 0 and "2 pins would be written" in said.out and path.read_text() == before
        said = command("pin", str(path))
        assert said.status == 0 and len(web.asked) == 1
    digest = hashlib.sha256(weights).hexdigest()
    assert f"teacher: {digest}" in said.out and "evaluation.detector: 0e74cae7" in said.out
    after = path.read_text().splitlines()
    assert [line for line in after if "sha256" not in line] == [
        line for line in before.splitlines() if "sha256" not in line
    ]
    assert recipes.load(str(path)).teacher.sha256 == digest
    assert "all that it names itself is pinned" in command("pin", str(path)).out


def test_a_folder_of_data_is_passed_over_and_told(command: Command, place: Path) -> None:
    """`pin` refused every recipe that `new` had written for a folder of images."""
    shutil.copy(ROOT / "recipes" / "assets" / "digits-detector.safetensors", place / "detector.safetensors")
    (place / "images").mkdir()
    path, mine = place / "mine.yaml", MINE.replace("  address: {address}  # from a friend\n", "")
    path.write_text(f"{mine}dataset:\n  source: folder\n  address: images\n")
    said = command("pin", str(path))
    assert said.status == 0, said.err
    assert "1 pins written" in said.out and "evaluation.detector: 0e74cae7" in said.out
    assert f"not pinned: dataset.sha256: {(place / 'images').as_uri()} is no single file" in said.out
    assert recipes.load(str(path)).dataset.sha256 is None
    (place / "images").rmdir()
    assert "no such file" in command("pin", str(path)).mistake()
    path.write_text("extends: digits\nname: mine\n")  # whose data a package has: there is no address
    assert "not pinned" not in command("pin", str(path)).out


def test_line_ends_mode_remarks_and_a_link_stay_as_they_are(command: Command, place: Path) -> None:
    shutil.copy(ROOT / "recipes" / "assets" / "digits-detector.safetensors", place / "detector.safetensors")
    path, link = place / "mine.yaml", place / "link.yaml"
    detector = ["  detector:", "    sha256: null  # of mine", "    address: detector.safetensors"]
    text = "\r\n".join(["extends: digits", "name: mine", "evaluation:", *detector])
    path.write_bytes(text.encode())
    path.chmod(0o600)
    link.symlink_to(path)
    assert command("pin", str(link)).status == 0
    digest = recipes.load(str(path)).evaluation.detector.sha256
    assert path.read_bytes().decode() == text.replace("null", f'"{digest}"')
    path.write_bytes(text.replace("    sha256: null  # of mine\r\n", "").encode())
    assert command("pin", str(link)).status == 0
    assert path.read_bytes().endswith(b'address: detector.safetensors\r\n    sha256: "%b"\r\n' % str(digest).encode())
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600


def test_a_page_in_place_of_a_file_is_not_pinned(command: Command, place: Path) -> None:
    shutil.copy(ROOT / "recipes" / "assets" / "digits-detector.safetensors", place / "detector.safetensors")
    path = place / "mine.yaml"
    with serve(b"<!DOCTYPE html><title>sign in</title>") as web:
        path.write_text(before := MINE.format(address=web.address))
        said = command("pin", str(path))
        assert said.status == 2 and "is a web page (HTML) and not the file" in said.err
    assert path.read_text() == before
    (place / "detector.safetensors").write_bytes(b"<html>sign in</html>")
    path.write_text(before := before.replace(web.address, "detector.safetensors"))
    assert "detector.safetensors" in command("pin", str(path)).mistake()
    assert path.read_text() == before


REVISION = "31f26fdeee1355a5c34592e401dd41e45d25a493"
BASE = """\
extends: imagenet-512-edm2-xs
name: {name}
dataset:
  latents:
    vae: stabilityai/sd-vae-ft-mse  # Stable Diffusion's
"""


@pytest.mark.parametrize("empty", ["", "    revision: null\n"])
def test_a_vae_s_revision_is_asked_of_the_hub_and_written_and_a_recipe_that_extends_it_is_told_where(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    asked: list[str] = []

    def info(self: object, repository: str, **_: object) -> object:  # the hub itself cannot be reached from tests
        asked.append(repository)
        return SimpleNamespace(sha=REVISION)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    base, mine = place / "base.yaml", place / "mine.yaml"
    base.write_text(BASE.format(name="base") + empty)
    mine.write_text("extends: base\nname: mine\n")
    said = command("pin", str(mine))
    assert "dataset.latents.revision, whose vae is set in base.yaml:5: pin that file too" in said.out
    assert asked == []
    said = command("pin", str(base))
    assert f"dataset.latents: {REVISION}  stabilityai/sd-vae-ft-mse" in said.out
    assert asked == ["stabilityai/sd-vae-ft-mse"]
    assert f'    revision: "{REVISION}"' in base.read_text().splitlines() and "# Stable Diffusion's" in base.read_text()
    latents = recipes.load(str(mine)).dataset.latents
    assert latents is not None and latents.revision == REVISION
    assert "latents.revision" not in command("pin", str(mine)).out


@pytest.mark.parametrize("fault", [ConnectionError("no route"), ValueError("Repo id must be"), None])
def test_a_hub_that_cannot_be_asked_is_said_with_what_to_do_by_hand(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    def info(self: object, repository: str, **_: object) -> object:
        if fault is not None:
            raise fault
        return SimpleNamespace(sha="main")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    path = place / "base.yaml"
    path.write_text(before := BASE.format(name="base"))
    said = command("pin", str(path)).mistake()
    assert "https://huggingface.co/stabilityai/sd-vae-ft-mse/commits/main" in said
    assert path.read_text() == before


def test_a_published_base_can_be_pinned_though_it_is_no_recipe_by_itself(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **_: SimpleNamespace(sha=REVISION))
    monkeypatch.setattr("pipeline.pinning.fetch_file", lambda address, what, **_: (place, "0" * 64))
    said = command("pin", str(ROOT / "recipes" / "bases" / "edm2.yaml"), "--dry-run")
    assert f"dataset.latents: {REVISION}" in said.out and "evaluation.reference: 0000" in said.out
    assert "2 pins would be written" in said.out


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
