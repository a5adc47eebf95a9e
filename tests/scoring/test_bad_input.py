"""`score` refuses what cannot be scored: one line, status 2, nothing computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sida.errors import UserError
from sida.scoring.images import find_images, read_images
from sida.scoring.labels import label_distribution, read_histogram
from tests.pipeline.command import Command
from tests.scoring.conftest import TINY, tiny


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", "")  # --trust-detector sets it: undone after the test
    return Command(place, monkeypatch, capsys)


def folder_of(place: Path, count: int, size: int = 8) -> Path:
    folder = place / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (size, size), np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def test_a_folder_of_images_is_scored_and_reused(here: Path, command: Command) -> None:
    folder = folder_of(here, 50)
    said = command("score", str(folder), "--recipe", str(TINY), "--images", "50")
    assert said.status == 0, said.err
    assert said.out.startswith("fd_digits") and "n = 50 x 1" in said.out
    address = said.out.splitlines()[-1].split()[-1]
    assert "reused" in command("score", str(folder), "--recipe", str(TINY), "--images", "50").err
    assert command("verify", address).status == 0
    told = json.loads(command("verify", address, "--json").out)
    assert told["holds"] and told["objects"] > 5 and told["problems"] == []
    quiet = command("score", str(folder), "--recipe", str(TINY), "--images", "50", "--quiet", "--json")
    assert (json.loads(quiet.out)["manifest"], quiet.err) == (address, "")
    listed = command("verify", address, "--list").out.split()
    assert address in listed and len(listed) > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda place: [str(folder_of(place, 9)), "--images", "10"], "holds 9 images"),
        (lambda place: [str(place / "missing"), "--images", "10"], "no such folder"),
        (lambda place: [str(folder_of(place, 4)), "--images", "1"], "evaluation.images"),
        (lambda place: [str(folder_of(place, 4)), "--trust-detector", "abc"], "64 lower-case hex"),
        (
            lambda place: [str(folder_of(place, 4)), "--backend", "cleanfid-clean"],
            "2048 features, recipe tiny has fd_digits on 64",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_computed(
    place: Path, command: Command, arguments: Callable[[Path], list[str]], said: str
) -> None:
    file, *options = arguments(place)
    line = command("score", file, "--recipe", str(TINY), *options).mistake()
    assert said in line
    assert not (place / "store" / "steps").exists()


def test_images_of_another_size_and_files_that_are_no_images_are_named(place: Path) -> None:
    folder = folder_of(place, 2, size=16)
    with pytest.raises(UserError, match=r"000.png: is 16x16, the recipe's images are 8x8"):
        read_images(find_images(folder, 2), 1, 8)
    (folder / "000.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"000.png: not a readable image"):
        read_images(find_images(folder, 2), 1, 8)


def test_colours_are_read_in_their_order(place: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(place / "one.png")
    np.testing.assert_array_equal(read_images([place / "one.png"], 3, 8)[0].numpy(), pixels.transpose(2, 0, 1))


def test_labels_out_of_range_and_damaged_lists_are_refused(place: Path) -> None:
    path = place / "dataset.json"
    path.write_text('{"labels": [["a.png", 0], ["b.png", 2], ["c.png", 2]]}')
    assert read_histogram(path, 3) == (1, 0, 2)
    with pytest.raises(UserError, match="class 2 is out of range, the recipe has 0 to 1"):
        read_histogram(path, 2)
    for text in ("{", '{"labels": null}', '{"labels": [["a.png", "0"]]}', '{"labels": []}'):
        path.write_text(text)
        with pytest.raises(UserError):
            read_histogram(path, 3)


def test_a_source_whose_classes_nobody_listed_is_refused(place: Path) -> None:
    with pytest.raises(UserError, match="run prepare_data"):
        label_distribution(recipe=tiny())
