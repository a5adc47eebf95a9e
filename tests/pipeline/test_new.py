"""``sida new``: a recipe for one's own teacher and images, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sida import recipe
from tests.pipeline.test_verbs import pipeline


def test_new_writes_a_recipe_that_reads_and_names_the_given_files(tmp_path: Path) -> None:
    path = tmp_path / "birds.yaml"
    said = pipeline("new", "birds", "--teacher", "/data/it's #1.pkl", "--images", "s3://b/birds", "--output", str(path))
    assert said.returncode == 0, said.stderr
    loaded = recipe.load(str(path))
    assert loaded.name == "birds"
    assert loaded.teacher.address == "file:///data/it%27s%20%231.pkl"
    assert loaded.dataset.address == "s3://b/birds"
    assert path.read_text().count("#") > 20  # commented, as promised


@pytest.mark.parametrize("resolution", [16, 32, 64, 128])
def test_the_written_network_can_be_built(tmp_path: Path, resolution: int) -> None:
    import torch

    from sida.numerics.networks.build import build_network

    path = tmp_path / "mine.yaml"
    pipeline("new", "mine", "--resolution", str(resolution), "--classes", "7", "--output", str(path))
    with torch.device("meta"):
        network = build_network(recipe.load(str(path)).teacher.network.model_dump())
        assert network(torch.zeros(1, 3, resolution, resolution), 1.0).shape == (1, 3, resolution, resolution)


def test_images_that_are_there_are_not_missed(tmp_path: Path) -> None:
    said = pipeline("new", "mine", "--images", str(tmp_path), "--output", str(tmp_path / "mine.yaml"))
    assert said.stdout == f"{tmp_path}/mine.yaml: now change what differs, then `sida plan {tmp_path}/mine.yaml`\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Birds",), ["'Birds'", "small letters"]),
        (("../birds",), ["'../birds'"]),
        (("birds", "--resolution", "48"), ["--resolution 48"]),
        (("birds", "--resolution", "-1"), ["--resolution", "'-1'"]),
        (("birds", "--classes", "-1"), ["--classes", "'-1'"]),
        (("birds", "--output", "/nowhere/birds.yaml"), ["/nowhere", "make it first"]),
        (("birds", "--output", "Makefile"), ["Makefile", "exists already"]),
    ],
)
def test_what_cannot_be_written_is_one_line_with_status_2(arguments: tuple[str, ...], words: list[str]) -> None:
    said = pipeline("new", *arguments)
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line


def test_new_train_writes_a_recipe_whose_teacher_is_trained_and_its_detector_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    said = pipeline("new", "patches", "--train", "--images", "/data/patches", "--output", str(path))
    assert said.returncode == 0, said.stderr
    assert "/data/patches: there are no images here yet" in said.stdout
    loaded = recipe.load(str(path))
    assert loaded.teacher.address is None
    assert loaded.teacher.train is not None
    assert loaded.evaluation.metric == "fd_random"
    assert loaded.evaluation.detector.address == (tmp_path / "patches-detector.safetensors").as_uri()
    assert (tmp_path / "patches-detector.safetensors").stat().st_size < 300_000


def test_another_file_where_the_detector_would_be_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "mine-detector.safetensors"
    theirs.write_bytes(b"of somebody else")
    said = pipeline("new", "mine", "--train", "--output", str(tmp_path / "mine.yaml"))
    assert (said.returncode, said.stdout) == (2, "") and "another file is there" in said.stderr
    assert theirs.read_bytes() == b"of somebody else" and [*tmp_path.iterdir()] == [theirs]
    theirs.unlink()
    assert pipeline("new", "mine", "--train", "--output", str(tmp_path / "mine.yaml")).returncode == 0
    (tmp_path / "mine.yaml").unlink()  # the detector, which is the same, may stay
    assert pipeline("new", "mine", "--train", "--output", str(tmp_path / "mine.yaml")).returncode == 0
