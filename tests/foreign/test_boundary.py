"""Whatever goes wrong over a foreign file is one short line, status 2, with the user's name for it."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sida.data.latents import load_vae
from sida.errors import Fenced, UserError
from sida.foreign.boundary import no_file, reading
from sida.foreign.fetch import fetch_file
from sida.foreign.json_values import parse_json
from sida.foreign.limits import Budget
from sida.printing import LINE
from sida.recipe import Latents
from sida.scoring.detector import load_detector
from sida.scoring.labels import read_histogram
from sida.scoring.reference_files import read_statistics
from sida.teachers.formats import read_network

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("deep"),
        OverflowError("far"),
        MemoryError(),
        IndexError(),
        struct.error("short"),
        zlib.error("bits"),
        NotImplementedError("method"),
        KeyError("x" * 10_000),
        OSError(errno.EINVAL, "Invalid argument"),
        UserError(f"net.pkl: holds {'x' * 3_000_000}: take another"),
    ],
)
def test_any_failure_is_a_short_line_of_status_2(error: Exception) -> None:
    with pytest.raises(UserError, match=r"^net\.pkl") as caught, reading("net.pkl"):
        raise error
    assert caught.value.exit_code == 2 and len(str(caught.value)) <= LINE


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), Fenced("another writer")])
def test_what_is_not_the_file_s_fault_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, reading("net.pkl"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_network(path, str(path)),
        lambda path: read_statistics(path, "fid", 12),
        lambda path: read_histogram(path, 10),
    ],
)
def test_a_git_lfs_pointer_and_a_pipe_are_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(POINTER)
    with pytest.raises(UserError, match="file is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        read(path)


@pytest.mark.parametrize("kind", ["teacher", "generator", "detector", "reference"])
def test_a_pinned_file_that_is_a_git_lfs_pointer_is_named_before_its_digest(
    kind: str, place: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(POINTER)
    with pytest.raises(UserError, match=f"{kind} {path} is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        fetch_file(path.as_uri(), kind, "0" * 64)


def test_a_detector_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    path.write_bytes(POINTER)
    with pytest.raises(UserError, match=r"detector\.safetensors is a Git LFS pointer"):
        load_detector(path)


def test_a_vae_of_git_lfs_pointers_is_named(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"dataset\.latents\.vae .*\.safetensors is a Git LFS pointer"):
        load_vae(Latents(vae=str(tmp_path), licence="-", image_resolution=64))


def test_json_is_bounded_in_depth_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_json(b'{"a": [1, [2]]}') == {"a": [1, [2]]}
    for depth in (300, 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(b"[" * depth + b"]" * depth)
    monkeypatch.setattr("sida.foreign.json_values.VALUES", 100)
    with pytest.raises(ValueError, match="more than 100"):
        parse_json(b"[" + b"0," * 200 + b"0]")


def test_a_budget_ends_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(0)
    budget.spend(100_000)
    monkeypatch.setattr("time.thread_time", lambda: 1e9)
    with pytest.raises(ValueError, match="takes more than 60 seconds"):
        budget.spend(100_000)


def test_what_is_no_file_is_named_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert no_file(tmp_path / "file") == ""
    assert no_file(tmp_path) == "is a folder, not a file"
    assert no_file(tmp_path / "absent") == "no such file"
    for path in (tmp_path / "pipe", Path("/dev/null")):
        assert no_file(path) == "is a pipe, socket or device, not a file"
