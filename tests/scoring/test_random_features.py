"""Random features: the same network everywhere, and a distance that grows with what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sida import recipe
from sida.errors import RecipeError, UserError
from sida.numerics.frechet import frechet_distance
from sida.scoring.detector import load_detector
from sida.scoring.random_features import FEATURES, random_features, write_random_features
from sida.stores.objects import sha256_of

DIGEST = "75ac7365769929aa5b5fbc05de2bb49ba60fcfa7213b068acaffb553b6f891d8"


def patches(seed: int, count: int = 400) -> np.ndarray:
    """uint8 [count, 3, 32, 32] from scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    generator, found = np.random.default_rng(seed), []
    for photograph in load_sample_images().images:
        small = photograph[::2, ::2]
        for _ in range(count // 2):
            y, x = generator.integers(small.shape[0] - 32), generator.integers(small.shape[1] - 32)
            found.append(small[y : y + 32, x : x + 32].transpose(2, 0, 1))
    return np.stack(found)


def test_the_file_has_the_same_digest_everywhere_and_loads_as_a_detector(tmp_path: Path) -> None:
    write_random_features(tmp_path / "detector.safetensors", channels=3)
    assert sha256_of(tmp_path / "detector.safetensors")[0] == DIGEST
    detector, images = load_detector(tmp_path / "detector.safetensors"), torch.from_numpy(patches(0, 6))
    assert torch.equal(detector(images), random_features(3)(images))
    assert detector(images).shape == (6, FEATURES)
    with pytest.raises(UserError, match="knows no classes"):
        detector.with_probabilities(images)


def test_the_distance_is_small_between_halves_and_grows_with_noise_blur_and_lost_variety() -> None:
    detector = random_features(3)

    def moments(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            features = detector(torch.from_numpy(np.ascontiguousarray(images))).double()
        return features.mean(0), torch.cov(features.T)

    real, other, generator = moments(patches(0)), patches(1), np.random.default_rng(2)

    def distance(images: np.ndarray) -> float:
        return frechet_distance(*real, *moments(images))

    def noisy(deviation: float) -> float:
        return distance(np.clip(other + generator.normal(0, deviation, other.shape), 0, 255).astype(np.uint8))

    def coarse(side: int) -> float:  # squares of one colour
        blocks = other.reshape(len(other), 3, 32 // side, side, 32 // side, side).mean((3, 5))
        return distance(blocks.repeat(side, 2).repeat(side, 3).astype(np.uint8))

    floor = distance(other)
    assert floor < noisy(20) < noisy(40) < noisy(80)
    assert floor < coarse(4) < coarse(16)
    assert floor < distance(np.repeat(other[::20], 20, 0))  # twenty images, each twenty times
    assert floor < distance(other[: len(other) // 2])  # one photograph's alone


def test_such_a_distance_may_not_be_called_fid(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nname: mine\nevaluation: {metric: fid}\n")
    with pytest.raises(RecipeError, match=r"evaluation: metric 'fid' with detector.kind digits: call it fd_digits"):
        recipe.load(str(path))
