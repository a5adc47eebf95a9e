"""`score` refuses what cannot be scored: one line, status 2, nothing computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sida.data.decode import Decoder
from sida.data.entries import Unreadable
from sida.errors import UserError
from sida.scoring.images import Images, decoder, find_images
from sida.scoring.labels import label_distribution, read_histogram
from tests.data.making import bomb
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
    assert json.loads(command("verify", address, "--list", "--json").out)["holds"] is None  # nothing was hashed
    assert "not allowed with argument --list" in command("verify", address, "--list", "--recompute").mistake()


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
        (
            lambda place: [str(folder_of(place, 4, 16)), "--images", "4"],
            "000.png: is 16x16, the recipe's images are 8x8",
        ),
        (lambda place: [str(folder_of(place, 4)), "--ranges", "3"], "images, which are one range: leave it out"),
        (lambda place: [str(folder_of(place, 4)), "--protocol", "best"], "--protocol: "),
        (
            lambda place: [str(folder_of(place, 4)), "--backend", "cleanfid-clean", "--metric", "kid"],
            "--metric: --backend cleanfid-clean computes one FID alone",
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


def images_of(folder: Path, count: int, **dataset: object) -> Images:
    return Images(find_images(folder, count), decoder(tiny(dataset=dataset)), count)


def written(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)
    return folder


def grey(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8))


def test_images_of_another_size_and_files_that_are_no_images_are_named(place: Path) -> None:
    folder = folder_of(place, 2, size=16)
    with pytest.raises(UserError, match=r"000.png: is 16x16, the recipe's images are 8x8"):
        images_of(folder, 2).read(slice(2))
    (folder / "000.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"000.png: is none of PNG"):
        images_of(folder, 2).read(slice(2))


def test_colours_are_read_in_their_order(place: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    folder = written(place / "images", "one.png", Image.fromarray(pixels))
    read = Images(find_images(folder, 1), Decoder("none", 8, 3), 1).read(slice(1))
    np.testing.assert_array_equal(read[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "P", "RGBA", "CMYK", "LA"])
def test_modes_are_refused_or_taken_as_prepare_data_does(place: Path, mode: str) -> None:
    """16-bit gray was clipped to white, alpha and palettes were flattened without a word."""
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    image = deep if mode == "I;16" else grey().convert("RGB" if mode == "CMYK" else "L").convert(mode)
    folder = written(place / "images", "one.tiff", image)
    content = (folder / "one.tiff").read_bytes()
    for modes in ("strict", "convert"):
        decode = Decoder("none", 8, 1, modes)
        reason = None
        try:
            expected = decode(content).data
        except Unreadable as error:
            reason = str(error)
        if reason is None:
            np.testing.assert_array_equal(images_of(folder, 1, modes=modes).read(slice(1))[0], expected)
        else:
            with pytest.raises(UserError, match=re.escape(f"one.tiff: {reason}")):
                images_of(folder, 1, modes=modes).read(slice(1))


def test_a_bomb_among_the_images_is_refused_in_one_line(place: Path, command: Command) -> None:
    folder = folder_of(place, 50)
    (folder / "000.png").write_bytes(bomb(60_000))
    said = command("score", str(folder), "--recipe", str(TINY), "--images", "50")
    assert said.status == 2
    assert said.err.splitlines()[-1] == f"error: {folder}/000.png: has too many pixels: refused as a bomb"


def test_files_of_the_system_are_no_images(place: Path) -> None:
    folder = folder_of(place, 2)
    for name in ("._000.png", ".thumb.png", "__MACOSX/000.png", ".cache/000.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    assert [path.name for path in find_images(folder, 2)] == ["000.png", "001.png"]
    with pytest.raises(UserError, match="holds 2 images"):
        find_images(folder, 3)


def test_what_the_files_were_is_said_and_compression_with_loss_and_few_images_are_warned_of(
    here: Path, command: Command
) -> None:
    folder = folder_of(here, 30)
    for number in range(20):
        written(folder, f"j{number}.jpg", grey(number))
    said = command("score", str(folder), "--recipe", str(TINY), "--images", "50").err
    assert "images: 30 PNG L, 8 bits; 20 JPEG L, 8 bits" in said
    assert "20 of 50 images were compressed with loss" in said
    assert "50 images are few for 64 features" in said


def test_images_of_a_folder_that_are_not_scored_are_told(tmp_path: Path) -> None:
    """The first by name of a folder for each class were of the first classes alone, and nothing said so."""
    for label in "01":
        for number in range(3):
            written(tmp_path / label, f"{number}.png", grey(number))
    folder = images_of(tmp_path, 2)
    assert folder.read(slice(2)).shape == (2, 1, 8, 8)
    assert folder.notes()[1:] == ["the folder holds 6 images, of which the first 2 by name are scored"]
    five = images_of(tmp_path, 5)
    five.read(slice(5))
    assert five.notes()[1:] == ["the folder holds 6 images, of which the first 5 by name, of 2 folders are scored"]
    assert len(images_of(tmp_path, 6).notes()) == 1


def test_too_few_images_for_a_metric_are_a_line(here: Path, command: Command) -> None:
    folder = folder_of(here, 3)
    options = ("--recipe", str(TINY), "--images", "3", "--metric", "precision_recall")
    said = command("score", str(folder), *options)
    assert said.status == 2
    assert "precision_recall takes 4 images or more on either side, not 3 against 1,797 of the" in said.err


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
