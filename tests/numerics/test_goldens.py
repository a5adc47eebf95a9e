"""Our numbers against those of the authors' implementations; ``python -m tests.golden`` does the same on any folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sida.numerics.frechet import frechet_distance
from tests.golden import FAMILIES
from tests.golden.__main__ import all_cases, main, run_case
from tests.golden.compare import Case, Checks, Folder

DATA = Path(__file__).parents[1] / "golden" / "data"
CASES = list(all_cases(Folder(DATA)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_numbers_agree_with_the_authors(case: Case) -> None:
    agrees, line = run_case(case)
    assert agrees, line


def test_every_family_of_golden_files_is_represented() -> None:
    families = {family.__name__.rpartition(".")[2] for family in FAMILIES}
    assert families == {
        "augment", "blocks", "datasets", "losses", "losses_pure", "metrics", "networks", "samplers", "trajectories"
    }  # fmt: skip
    for family in FAMILIES:
        assert list(family.cases(Folder(DATA))), family.__name__


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The augmentation and metric files alone: quick to recompute."""
    for name in ("augment.safetensors", "metrics.safetensors", "metrics.json"):
        shutil.copy(DATA / name, tmp_path / name)
    return tmp_path


def test_the_checker_accepts_a_folder_with_some_of_the_families(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    agreed, _, total = last.removesuffix(" cases agree").split(" ")
    assert agreed == total


def test_the_checker_refuses_a_changed_number(folder: Path, capsys: pytest.CaptureFixture) -> None:
    scores = json.loads((folder / "metrics.json").read_text())
    scores["frechet"]["regular_40d"] *= 1 + 1e-6
    (folder / "metrics.json").write_text(json.dumps(scores))
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert output.count("FAIL") == 2  # the distance itself, and the one computed from features
    assert "FAIL  metrics/frechet/regular_40d" in output


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    """A short training alone."""
    for name in ("traj_edm_sid.safetensors", "traj_edm_sid.json"):
        shutil.copy(DATA / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "step", "agree"),
    [
        (1, 4e-4, True),  # Adam's step the other way round: another CPU's rounding
        (5, 4e-4, False),
        (216, 8e-7, False),  # 0.4% of a step
    ],
)
def test_the_checker_compares_what_training_moved(trajectory: Path, weights: int, step: float, agree: bool) -> None:
    tensors = load_file(trajectory / "traj_edm_sid.safetensors")
    changed = max((t for name, t in tensors.items() if "it0/after/psi/" in name), key=Tensor.numel).view(-1)
    assert len(changed) == 216
    changed[:weights] += step
    save_file(tensors, trajectory / "traj_edm_sid.safetensors")
    assert main([str(trajectory)]) == (0 if agree else 1)


def test_the_checker_takes_a_half_life_that_is_not_whole(trajectory: Path) -> None:
    meta = json.loads((trajectory / "traj_edm_sid.json").read_text())
    meta["ema_halflife_images"] += 1e-12
    (trajectory / "traj_edm_sid.json").write_text(json.dumps(meta))
    assert main([str(trajectory)]) == 0


def test_the_checker_takes_features_of_another_width_than_other_cases(folder: Path) -> None:
    tensors = load_file(folder / "metrics.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("stats/")}
    scores = json.loads((folder / "metrics.json").read_text())
    for number, side in enumerate("xy", 1):
        narrow = tensors[f"fd/features/{side}"][:, :24].contiguous()
        kept |= {f"fd/features/{side}": narrow, f"fd/narrow/mu{number}": narrow.double().mean(0)}
        kept[f"fd/narrow/sigma{number}"] = narrow.double().T.cov(correction=0)
    scores["frechet"]["narrow"] = frechet_distance(
        *(kept[f"fd/narrow/{n}"] for n in ("mu1", "sigma1", "mu2", "sigma2"))
    )
    save_file(kept, folder / "metrics.safetensors")
    (folder / "metrics.json").write_text(json.dumps(scores))
    assert main([str(folder)]) == 0


def test_the_checker_refuses_a_tensor_that_it_did_not_look_at(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tensors = load_file(folder / "augment.safetensors")
    save_file(tensors | {"new/thing": torch.zeros(1)}, folder / "augment.safetensors")
    assert main([str(folder)]) == 1
    assert "LEFT  augment.safetensors: 1 tensors not checked, e.g. new/thing" in capsys.readouterr().out


def test_the_checker_refuses_a_file_of_a_known_family_that_nothing_describes(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    save_file({"x": torch.zeros(1)}, folder / "net_other.safetensors")
    assert main([str(folder)]) == 1
    assert "LEFT  net_other.safetensors: not checked" in capsys.readouterr().out


def test_the_checker_goes_on_after_a_family_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "losses.json").write_text(json.dumps({"losses_absent.safetensors": {"scalars": {}}}))
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert "FAIL  losses/files: FileNotFoundError" in output
    assert "ok    augment/only_scale" in output


def test_the_checker_refuses_an_empty_folder(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "absent")]) == 2


def test_nan_agrees_with_nan_only() -> None:
    for ours, golden, agrees in (
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (1.0, float("nan"), False),
        (float("inf"), 1.0, False),
    ):
        checks = Checks()
        checks.close("value", ours, golden, 1e-5, 1e-5)
        assert checks.done[0].agrees is agrees
