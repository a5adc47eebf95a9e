"""ADM's reference files hold statistics of the whole training set and some images of it; TTUR's hold statistics alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sida.errors import UserError
from sida.manifests import ReferenceResult
from sida.scoring.reference_files import read_reference_images, read_statistics
from tests.scoring.conftest import manifest, tiny
from tests.scoring.files import runner

GENERATOR = np.random.default_rng(0)
MU, SIGMA = GENERATOR.normal(size=64), np.cov(GENERATOR.normal(size=(64, 200)))
IMAGES = np.repeat(GENERATOR.integers(0, 256, (30, 8, 8, 1), np.uint8), 3, axis=3)
VIRTUAL = {"mu": MU, "sigma": SIGMA, "mu_s": np.zeros(49), "sigma_s": np.eye(49), "arr_0": IMAGES}


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_score_is_against_mu_and_sigma_and_images_are_those_of_arr_0(tmp_path: Path) -> None:
    path = saved(tmp_path / "VIRTUAL_imagenet64_labeled.npz", **VIRTUAL)
    found = read_statistics(path, "fid", 64)
    np.testing.assert_array_equal(found.mean, MU)
    np.testing.assert_array_equal(found.covariance, SIGMA)
    assert found.images == (30, 8, 8, 3)
    np.testing.assert_array_equal(read_reference_images(path, 8), IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(read_reference_images(path, 8, 1), IMAGES[:, None, :, :, 0])
    ttur = read_statistics(saved(tmp_path / "fid_stats_cifar10_train.npz", mu=MU, sigma=SIGMA), "fid", 64)
    assert (ttur.images, ttur.count) == ((), None)


def refused(read: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert len(line) <= 300 and "damaged" not in line and "fetch it again" not in line
    return line


def test_a_file_of_the_other_kind_is_named_as_what_it_is(tmp_path: Path) -> None:
    images, statistics = saved(tmp_path / "i.npz", arr_0=IMAGES), saved(tmp_path / "s.npz", mu=MU, sigma=SIGMA)
    line = refused(read_statistics, images, "fid", 64)
    assert "i.npz: holds images (arr_0) and no mu and sigma" in line and "evaluation.precision_recall_reference" in line
    line = refused(read_reference_images, statistics, 8)
    assert "s.npz: holds statistics (mu, sigma) and no images (arr_0)" in line and "evaluation.reference" in line
    assert "mu [64] and sigma [64, 64], but the detector has 2048" in refused(read_statistics, statistics, "fid", 2048)
    color = saved(tmp_path / "c.npz", arr_0=GENERATOR.integers(0, 256, (30, 8, 8, 3), np.uint8))
    assert "c.npz: arr_0 is in color, dataset.channels is 1" in refused(read_reference_images, color, 8, 1)
    assert "expected uint8 [N, 64, 64, 3]" in refused(read_reference_images, images, 64)


@pytest.mark.parametrize("both", [True, False])
def test_the_step_says_which_part_of_the_file_is_used_for_what(
    here: Path, capsys: pytest.CaptureFixture[str], both: bool
) -> None:
    from sida.data.prepare import prepare_data
    from sida.scoring.reference import reference_statistics

    file = {"address": saved(here / "VIRTUAL.npz", **VIRTUAL).as_uri(), "sha256": None}
    evaluation = {"reference": file}
    if both:
        evaluation |= {"precision_recall_reference": file, "extra_metrics": ["precision_recall"]}  # type: ignore[dict-item]
    run = runner(here, tiny(evaluation=evaluation))
    result = manifest(run(reference_statistics, dataset=run(prepare_data))).result
    assert isinstance(result, ReferenceResult)
    said = capsys.readouterr().err
    assert "VIRTUAL.npz holds statistics and 30 images: fd_digits is measured against its mu and sigma" in said
    assert ("precision and recall against its images (arr_0)" in said) == both
    assert ("its images are not used" in said) != both
    assert (result.origin, result.precision_recall_features is not None) == ("published", both)
