"""clean-fid itself beside our FID: the same images, detector and statistics give the same number; never imported otherwise.

clean-fid is no dependency: `make test-beside` brings it to this test. Without torchvision what clean-fid takes of it is made here.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sida.errors import UserError
from sida.recipe import Recipe, load
from sida.stores.objects import sha256_of
from tests.data.making import class_folders
from tests.scoring import stand_in_torchvision
from tests.scoring.conftest import TINY, tiny

FEATURES = 2048
INSTALLED = importlib.util.find_spec("cleanfid") is not None


class Wide(nn.Module):
    """A detector as clean-fid takes it: 2048 features, its own resize to 299, ``layers`` for images resized outside."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, FEATURES)]
        self.layers = nn.Sequential(*layers)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = nn.functional.interpolate(img.to(torch.float32), [299, 299], mode="bilinear", align_corners=False)
        return self.layers((x - 128) / 128)


@pytest.fixture
def recipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    path = place / "wide.pt"
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own format old
        torch.manual_seed(0)
        torch.jit.script(Wide().eval()).save(str(path))
    digest = sha256_of(path)[0]
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", digest)
    detector = {"kind": "inception", "address": path.as_uri(), "sha256": digest, "features": FEATURES}
    top = class_folders(place / "training", 40, size=(8, 8))
    return tiny(
        teacher={"network": {**load(str(TINY)).teacher.network.model_dump(mode="json"), "channels": 3, "label_dim": 2}},
        dataset={"source": "folder", "address": top.as_uri(), "channels": 3, "classes": 2},
        evaluation={"metric": "fid", "detector": detector, "images": 30},
        execution={"processes": 1, "sampling_batch": 64},
    )


def folder_of(place: Path, count: int, size: int = 8) -> Path:
    folder = place / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.skipif(INSTALLED, reason="clean-fid is installed here")
def test_clean_fid_is_missed_in_one_line(place: Path, recipe: Recipe) -> None:
    from sida.scoring.cleanfid import score_folder

    with pytest.raises(UserError, match="needs the package clean-fid") as error:
        score_folder(folder_of(place, 30), recipe, "cleanfid-legacy_tensorflow")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is no folder"):
        score_folder(place / "wide.pt", recipe, "cleanfid-clean")


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, or what clean-fid takes of it."""
    stand_in_torchvision.install(monkeypatch)


@pytest.mark.slow  # 2048 features, scipy's sqrtm
@pytest.mark.skipif(not INSTALLED, reason="clean-fid is not here: make test-beside")
def test_both_agree_in_the_mode_of_the_published_fid_and_clean_is_another_number(
    here: Path, recipe: Recipe, torchvision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sida.scoring import cleanfid
    from sida.scoring.file import score_file

    folder = folder_of(here, 30)
    ours = score_file(folder, recipe).manifest.rows[0].mean
    theirs = cleanfid.score_folder(folder, recipe, "cleanfid-legacy_tensorflow")
    assert theirs.metric == "fid_cleanfid_legacy_tensorflow" and "clean-fid's features" in theirs.text
    assert theirs.value == pytest.approx(ours, rel=0.05)
    with (
        monkeypatch.context() as patched
    ):  # np.cov divides by n - 1, we by n as the authors' code: nothing else differs
        patched.setattr("numpy.cov", partial(np.cov, ddof=0))
        over_n = cleanfid.score_folder(folder, recipe, "cleanfid-legacy_tensorflow").value
    print(f"clean-fid {theirs.value:.6f}, over n {over_n:.6f}, ours {ours:.6f}")
    assert over_n == pytest.approx(ours, rel=1e-4)
    clean = cleanfid.score_folder(folder, recipe, "cleanfid-clean")
    assert clean.metric == "fid_cleanfid_clean" and "in mode clean" in clean.text
    assert clean.value != pytest.approx(theirs.value, rel=1e-4)
    assert len(list((here / "store" / "cleanfid").iterdir())) == 2  # one for each mode, and made once
    monkeypatch.setattr("sida.data.shards.Shards.read", None)
    assert cleanfid.score_folder(folder, recipe, "cleanfid-clean").value == clean.value
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", "")
    with pytest.raises(UserError, match="add --trust-detector"):
        cleanfid.score_folder(folder, recipe, "cleanfid-clean")
