"""GPUs that a run would leave idle, or that it lacks, are told before anything begins, without loading torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sida.launch import gpus_here
from tests.conftest import ROOT
from tests.pipeline.command import Command


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, monkeypatch, capsys)


def machine(folder: Path, gpus: int) -> Path:
    """Make a folder of device nodes as NVIDIA's driver has them for this many GPUs."""
    folder.mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "null", *(f"nvidia{number}" for number in range(gpus))):
        (folder / name).touch()
    return folder


def test_gpus_are_counted_as_cuda_will_see_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eight, none = machine(tmp_path / "dev", 8), tmp_path / "no-mig"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_here.count(eight, none) == 8
    assert gpus_here.count(machine(tmp_path / "cpu", 0), none) == 0
    for visible, seen in {
        "0": 1,
        "2,5, 7": 3,
        "": 0,
        "-1": 0,
        "9": 0,  # there is none: what CUDA makes of it is its own
        "1,1": 0,
        "GPU-5f2c3d1a-0000,GPU-5f2c3d1a-0001": 2,
        "MIG-5f2c3d1a": 0,
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus_here.count(eight, none) == seen, visible
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "mig" / "gpu0" / "mig" / "gi1").mkdir(parents=True)
    assert gpus_here.count(eight, tmp_path / "mig") == 0  # not known


def test_what_torch_was_built_for_is_known_as_torch_says_itself() -> None:
    import torch

    assert gpus_here.torch_takes_them() == bool(torch.version.cuda)
    code = "import sys; from sida.launch import gpus_here as g; g.torch_takes_them(); g.count(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def of_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight GPUs: device nodes, and a torch for CUDA, of which this one needs neither to find a missing teacher."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus_here.count, "__defaults__", (machine(tmp_path / "dev", 8), tmp_path / "no-mig"))
    monkeypatch.setattr(gpus_here, "torch_takes_them", lambda: True)


def recipe(folder: Path, processes: int) -> str:
    path = folder / "mine.yaml"
    path.write_text(f"extends: digits\nname: mine\nmethod: {{batch: 256}}\nexecution: {{processes: {processes}}}\n")
    return str(path)


@pytest.mark.usefixtures("of_eight")
def test_more_processes_than_gpus_end_a_run_before_it_begins(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    line = command("run", recipe(command.place, 16)).mistake()
    assert "16 processes on this machine" in line and "it has 8 GPUs: set SIDA_WORKERS to 8" in line
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "it has 1 GPU: set SIDA_WORKERS to 1" in command("run", "digits").mistake()
    assert "it has 1 GPU" in command("teach", "digits").mistake()
    assert "it has 1 GPU" in command("score", "images", "--recipe", "digits").mistake()
    assert not (command.place / "store").exists()


@pytest.mark.usefixtures("of_eight")
def test_gpus_that_a_run_leaves_idle_are_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ("--recipe", recipe(command.place, 2))
    told = "note: of this machine's 8 GPUs the run takes 2 (execution.processes): SIDA_WORKERS=8 takes 8"
    assert told in command("score", "missing", *missing).err
    assert "note:" not in command("score", "missing", *missing, "--quiet").err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5")  # a batch of 256 does not divide among six, nor five
    assert "of this machine's 6 GPUs the run takes 2 (execution.processes): SIDA_WORKERS=4 takes 4" in (
        command("score", "missing", *missing).err
    )
    monkeypatch.setenv("SIDA_WORKERS", "2")  # said on purpose
    assert "note:" not in command("score", "missing", *missing).err
