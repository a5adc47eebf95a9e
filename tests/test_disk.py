"""Files that verbs write for their users: whole or not at all, never through a link, and what was there stays until then."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sida import recipe
from sida.disk import full_disk, replacing, writing
from sida.errors import UserError
from sida.manifests import DatasetResult, Manifest, TeacherResult
from sida.settings import settings
from sida.stores import open_store
from sida.stores.objects import put_object, sha256_of
from sida.training import assets
from tests.conftest import ROOT

LIMIT = 4096  # bytes of a file


@pytest.fixture
def few_bytes() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path, content: bytes) -> None:
    with writing(path, "--output"), replacing(path) as draft:
        draft.write_bytes(content)


@pytest.mark.usefixtures("few_bytes")
def test_a_file_that_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(UserError, match=rf"--output {path}: file limit reached while writing: raise it"):
        write(path, bytes(2 * LIMIT))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("few_bytes")
def test_a_file_limit_is_named_in_whatever_words_a_library_puts_it(tmp_path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with pytest.raises(SafetensorError) as caught:
        save_file({"a": torch.zeros(LIMIT)}, tmp_path / "a.safetensors")
    said = full_disk(caught.value, "the output")
    assert str(said) == "file limit reached while writing the output: raise it (ulimit -f)"


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"theirs")
    path.symlink_to(target)
    write(path, b"ours")
    assert target.read_bytes() == b"theirs" and path.read_bytes() == b"ours" and not path.is_symlink()
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    write(path, b"ours")
    assert path.read_bytes() == b"ours" and not (tmp_path / "nowhere").exists()


def test_a_folder_in_its_place_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match=r"--output .*/file: cannot be written \(Is a directory\): name another place"):
        write(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pipe_and_an_open_file_are_written_as_they_are(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom sida.disk import replacing\n"
        "with replacing(Path('/dev/stdout')) as draft: draft.write_text('x')"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout == b"x"
    with (tmp_path / "out").open("wb") as file:
        subprocess.run(command, cwd=ROOT, stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == b"x" and os.path.islink("/dev/stdout")
    if os.path.exists("/dev/full"):
        with pytest.raises(UserError, match="--output /dev/full: disk full while writing"):
            write(Path("/dev/full"), b"x")
        assert not Path("/dev/full").is_file()


# -- sida teach


@pytest.fixture
def trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Manifests of a teacher and of its data; its detector is a layer that nobody trains."""
    weights = put_object(open_store(settings().store), bytes(2 * LIMIT), "teacher.safetensors")
    monkeypatch.setattr("sida.data.shards.Shards", lambda *given: _NoShards())
    monkeypatch.setattr("sida.scoring.detector.train_digits_detector", lambda *given, **how: (nn.Linear(64, 64), 1.0))
    teacher = TeacherResult(network={}, weights=weights, source_sha256=weights.sha256, licence="none")
    return Manifest.model_construct(result=teacher), Manifest.model_construct(result=DatasetResult.model_construct())


class _NoShards:
    def __len__(self) -> int:
        return 0

    def read(self, indices: torch.Tensor) -> tuple[None, None]:
        return None, None


def test_a_teacher_and_its_detector_are_written_whole(trained: tuple[Any, Any], tmp_path: Path) -> None:
    output, victim = tmp_path / "new" / "folder", tmp_path / "victim"
    output.mkdir(parents=True)
    (output / "digits-teacher.safetensors").symlink_to(victim)
    made = assets.export_assets(recipe.load("digits"), *trained, output)
    assert [asset.sha256 for asset in made] == [sha256_of(asset.path)[0] for asset in made]
    assert sorted(path.name for path in output.iterdir()) == [
        "digits-detector.safetensors",
        "digits-teacher.safetensors",
    ]
    assert not victim.exists()


def test_where_a_folder_has_the_detector_s_name_teach_says_so(trained: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "digits-detector.safetensors").mkdir()
    with pytest.raises(
        UserError, match=r"--output .*/digits-detector\.safetensors: cannot be written \(Is a directory"
    ):
        assets.export_assets(recipe.load("digits"), *trained, tmp_path)


def test_a_teacher_that_finds_no_room_leaves_the_one_before(
    trained: tuple[Any, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = tmp_path / "digits-teacher.safetensors"
    before.write_bytes(b"an older one")
    request.getfixturevalue("few_bytes")
    with pytest.raises(UserError, match=r"--output .*/digits-teacher\.safetensors: file limit reached"):
        assets.export_assets(recipe.load("digits"), *trained, tmp_path)
    assert before.read_bytes() == b"an older one" and [path for path in tmp_path.iterdir() if path.is_file()] == [
        before
    ]
