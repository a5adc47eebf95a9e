"""torch-fidelity 0.4 itself beside our metrics: the same files and detector give the same FID, IS, KID, precision and recall.

torch-fidelity is no dependency: `make test-beside` brings it to this test. It reads the files and computes the metrics; its own
Inception wants weights from the net, so that it gets a detector of ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sida.numerics.precision_recall import precision_recall
from sida.recipe import load
from sida.scoring.detector import load_detector
from sida.scoring.file import score_file
from sida.stores.objects import sha256_of
from tests.scoring import stand_in_torchvision
from tests.scoring.conftest import TINY, tiny
from tests.scoring.stand_in import FEATURES, write_stand_in

COUNT = 60  # real and generated images: KID's subsets are all of them, there as here

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not here: make test-beside"
)


def folder_of(place: Path, seed: int, brightest: int) -> Path:
    """PNGs 8x8 of noise."""
    place.mkdir()
    generator = np.random.default_rng(seed)
    for number in range(COUNT):
        Image.fromarray(generator.integers(0, brightest, (8, 8, 3), np.uint8)).save(place / f"{number:03d}.png")
    return place


def torch_fidelity_of(detector: Any, generated: Path, real: Path) -> dict[str, float]:
    """All its metrics of two folders."""
    import torch_fidelity

    class Extractor(torch_fidelity.FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features", "logits_unbiased")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "features"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features = detector(images)
            found = {"features": features, "logits_unbiased": features @ detector.script.output.weight.T}
            return tuple(found[name] for name in self.features_list)

    torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY.pop("ours", None)
    torch_fidelity.register_feature_extractor("ours", Extractor)
    found: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=str(generated),
        input2=str(real),
        feature_extractor="ours",
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        kid_subset_size=COUNT,
        samples_shuffle=False,  # ours takes the splits of IS in the order of the images
        save_cpu_ram=True,  # reads in this process
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
    )
    return found


def test_every_metric_is_torch_fidelity_s_on_the_same_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_torchvision.install(monkeypatch)
    script = write_stand_in(here / "script.pt", gain=4)
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", sha256_of(script)[0])
    real, generated = folder_of(here / "real", 0, 256), folder_of(here / "generated", 1, 200)
    network = load(str(TINY)).teacher.network.model_dump(mode="json") | {"channels": 3, "label_dim": 0}
    recipe = tiny(
        teacher={"network": network},
        dataset={"source": "folder", "address": real.as_uri(), "channels": 3, "classes": 0},
        evaluation={
            "metric": "fid",
            "detector": {"kind": "inception", "address": script.as_uri(), "features": FEATURES},
            "extra_metrics": ["is", "kid", "precision_recall"],
            "images": COUNT,
        },
    )
    result = score_file(generated, recipe).manifest.result
    ours = {row.metric: row.mean for row in (*result.rows, *result.further)}
    detector: Any = load_detector(script)
    theirs = torch_fidelity_of(detector, generated, real)
    with monkeypatch.context() as patched:  # its covariances are over n - 1, ours of generated images over n
        patched.setattr("numpy.cov", over_n_first(np.cov))
        over_n = torch_fidelity_of(detector, generated, real)["frechet_inception_distance"]
    print(f"torch-fidelity {theirs}, FID over n {over_n}, ours {ours}")
    assert ours["fid"] == pytest.approx(over_n, rel=1e-4)  # features and means in float32 there
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=0.1)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)  # in float32 there
    both = theirs["precision"], theirs["recall"]
    # Ours rounds features to float16, as the published metric: an image on the edge of a ball may change sides.
    assert (ours["precision"], ours["recall"]) == pytest.approx(both, abs=2.5 / COUNT)
    assert min(both) > 0 and max(both) < 1
    with torch.no_grad():
        features = [detector(images_of(folder)) for folder in (real, generated)]
    assert precision_recall(*features, dtype=torch.float32) == pytest.approx(both, abs=1e-6)


def over_n_first(cov: Callable[..., Any]) -> Callable[..., Any]:
    """np.cov over n where it is called first, of the generated images, and over n - 1 then."""
    freedom = iter((0, 1))
    return lambda *given, **named: cov(*given, **named, ddof=next(freedom))


def images_of(folder: Path) -> Tensor:
    """uint8 [N, 3, H, W]."""
    return torch.stack([stand_in_torchvision.pil_to_tensor(Image.open(path)) for path in sorted(folder.iterdir())])
