"""Images in an npz, as OpenAI's evaluator takes them: scored, written, refused."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sida.errors import UserError
from sida.export.generator import open_generator
from sida.export.npz import writing_npz
from sida.export.sample import sample
from sida.scoring.npz_images import NpzImages, is_npz
from tests.pipeline.command import Command
from tests.scoring.conftest import ASSET, TINY


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, monkeypatch, capsys)


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_an_npz_scores_as_the_same_images_in_a_folder_and_says_how_its_labels_are_dealt(
    here: Path, command: Command
) -> None:
    gray = pixels(50, 8, 8)
    (here / "images").mkdir()
    for number, image in enumerate(gray):
        Image.fromarray(image).save(here / "images" / f"{number:03d}.png")
    rgb = np.repeat(gray[..., None], 3, axis=3)
    path = npz(here / "out.npz", arr_0=np.concatenate([rgb, rgb[:3]]), arr_1=np.arange(53) % 10)
    options = ("--recipe", str(TINY), "--images", "50", "--json", "--metric", "precision_recall")
    folder = json.loads(command("score", str(here / "images"), *options).out)
    said = command("score", str(path), *options)
    file = json.loads(said.out)
    assert [row["values"] for row in file["scores"]] == [row["values"] for row in folder["scores"]]
    assert file["scores"][0]["label"] == "50 images of an npz"
    assert file["labels"] == "exact proportions of the training set, uniform: 10 classes of 5 images"
    assert folder["labels"] == "not known: the files have none"
    assert "the first 50 of arr_0 uint8 [53, 8, 8, 3]" in said.err and "50 images are few for 64 features" in said.err
    assert "reused" in command("score", str(path), *options).err
    for address in (file["manifest"], folder["manifest"]):
        assert json.loads(command("verify", address, "--json").out)["problems"] == []


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": pixels(9, 8, 8, 3)}, ["holds 9 images, 10 are asked for", "--images 9"]),
        ({"arr_0": pixels(10, 16, 16, 3)}, ["[10, 16, 16, 3]", "the recipe's images are 8x8"]),
        ({"arr_0": pixels(10, 3, 8, 8)}, ["[10, 3, 8, 8]", "channels last"]),
        ({"arr_0": pixels(10, 8, 8)}, ["[10, 8, 8]", "expected arr_0 uint8 [N, 8, 8, 3]"]),
        ({"arr_0": pixels(10, 8, 8, 3) / 255.0}, ["float64", "whole numbers from 0 to 255"]),
        ({"arr_0": np.asfortranarray(pixels(10, 8, 8, 3))}, ["column by column"]),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, ["holds mu, sigma", "evaluation.reference"]),
        ({"images": pixels(10, 8, 8, 3)}, ["holds images", "expected arr_0"]),
        ({"arr_0": np.array([{}] * 10, dtype=object)}, ["holds arr_0", "expected arr_0 uint8"]),
    ],
)
def test_another_npz_is_one_line_and_nothing_is_computed(
    place: Path, command: Command, arrays: dict[str, np.ndarray], words: list[str]
) -> None:
    path = npz(place / "given.npz", **arrays)
    line = command("score", str(path), "--recipe", str(TINY), "--images", "10").mistake()
    assert all(word in line for word in [str(path), *words]), line
    assert not (place / "store" / "steps").exists()


def test_color_in_a_gray_recipe_classes_out_of_range_and_a_file_that_changes_are_refused(tmp_path: Path) -> None:
    images = np.repeat(pixels(10, 8, 8, 1), 3, axis=3)
    images[7, 0, 0] = 1, 2, 3
    with pytest.raises(UserError, match="image 7 is in color"):
        list(NpzImages(npz(tmp_path / "a.npz", arr_0=images), 10, 1, 8).parts(4))
    labeled = NpzImages(npz(tmp_path / "b.npz", arr_0=images, arr_1=np.arange(10)), 10, 3, 8)
    with pytest.raises(UserError, match="arr_1 has classes 0 to 9, the training set 3"):
        labeled.labels([5, 5, 5])
    parts = labeled.parts(4)
    next(parts)
    npz(tmp_path / "b.npz", arr_0=images // 2, arr_1=np.arange(10))
    with pytest.raises(UserError, match=r"b\.npz: changed while it was scored"):
        list(parts)


def test_a_damaged_member_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = npz(tmp_path / "out.npz", arr_0=pixels(10, 8, 8, 3))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"out\.npz is damaged"):
        list(NpzImages(path, 10, 3, 8).parts(4))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_file_is_read_a_part_at_a_time_in_its_order(tmp_path: Path, save: Callable[..., None]) -> None:
    images = np.resize(pixels(100, 16, 16, 3), (20_000, 16, 16, 3))  # 15 MB
    save(tmp_path / "out.npz", images)
    source = NpzImages(tmp_path / "out.npz", 20_000, 3, 16)
    tracemalloc.start()
    start = 0
    for part in source.parts(500):
        assert (part == images[start : start + len(part)].transpose(0, 3, 1, 2)).all()
        start += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert start == 20_000
    assert peak < 4_000_000  # a part of 0.4 MB, its copies and buffers; the whole would be 15 MB


def test_a_published_pickle_of_torch_is_no_npz(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")
    npz(tmp_path / "out.npz", arr_0=pixels(1, 8, 8, 3))
    assert not is_npz(tmp_path / "weights.pt")
    assert is_npz((tmp_path / "out.npz").rename(tmp_path / "out"))


def test_sample_writes_an_npz_that_the_evaluator_and_score_take(command: Command, tmp_path: Path) -> None:
    path, folder = tmp_path / "out.npz", tmp_path / "images"
    options = ("--recipe", "digits", "--seeds", "0-24", "--batch", "10", "--json")
    said = command("sample", str(ASSET), *options, "--npz", str(path), "--output", str(folder))
    told = json.loads(said.out)
    assert (told["images"], told["npz"]) == (25, str(path)), said.err
    assert told["labels"] == "uniform: 10 classes of 2 to 3 images"
    from sida.recipe import load

    parts = sample(open_generator(str(ASSET), load("digits")), range(25), torch.arange(25) % 10, batch=10)
    expected = torch.cat([*parts])
    with np.load(path, allow_pickle=False) as written:
        assert sorted(written.files) == ["arr_0", "arr_1"]
        assert (written["arr_0"].dtype, written["arr_0"].shape) == (np.uint8, (25, 8, 8, 3))
        assert (written["arr_0"] == expected.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()).all()
        assert written["arr_1"].tolist() == [number % 10 for number in range(25)]
    assert len(list(folder.iterdir())) == 25
    (scored,) = NpzImages(path, 25, 1, 8).parts(25)
    assert (scored == expected.numpy()).all()


def test_an_npz_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_bytes(b"before")

    def interrupted() -> None:
        with writing_npz(tmp_path / "out.npz", 4, 8, None) as take:
            take(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]
    assert (tmp_path / "out.npz").read_bytes() == b"before"


def test_equal_images_make_equal_bytes_uncompressed(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        with writing_npz(tmp_path / name, 3, 8, torch.arange(3)) as take:
            for image in torch.from_numpy(pixels(3, 1, 8, 8)).split(1):
                take(image)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
