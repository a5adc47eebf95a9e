"""Published statistics and images: NVIDIA's files as they are, and everything else refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sida.errors import UserError
from sida.scoring.reference_files import read_reference_images, read_statistics

DATA = Path(__file__).parents[1] / "golden" / "reference"
EXPECTED = load_file(DATA / "expected.safetensors")


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        ("edm_ref.npz", "fid", "edm"),
        ("edm_ref_compressed.npz", "fid", "edm"),
        ("edm2_ref.pkl", "fid", "edm2/fid"),
        ("edm2_ref.pkl", "fd_dinov2", "edm2/fd_dinov2"),
        ("edm2_ref_fid_only.pkl", "fid", "edm2_fid_only/fid"),
        ("edm2_ref_numpy1_fortran.pkl", "fid", "edm2/fid"),
        ("edm2_ref_numpy1_protocol5.pkl", "fid", "edm2/fid"),
        ("edm2_ref_numpy2_protocol2.pkl", "fid", "edm2/fid"),
    ],
)
def test_published_statistics_are_read_as_they_were_written(name: str, metric: str, expected: str) -> None:
    statistics = read_statistics(DATA / name, metric, 9 if metric == "fd_dinov2" else 12)
    np.testing.assert_array_equal(statistics.mean, EXPECTED[f"{expected}/mu"])
    np.testing.assert_array_equal(statistics.covariance, EXPECTED[f"{expected}/sigma"])
    assert statistics.mean.dtype == np.float64
    assert statistics.count == (26 if name.endswith("pkl") else None)


def test_our_own_statistics_are_the_published_ones_over_n_minus_1() -> None:
    import torch

    from sida.numerics.frechet import Moments

    moments = Moments(12)
    moments.add(torch.from_numpy(EXPECTED["features_fid"]))
    mean, covariance = moments.mean_cov(ddof=1)
    np.testing.assert_allclose(mean, EXPECTED["edm2/fid/mu"], rtol=1e-12)
    np.testing.assert_allclose(covariance, EXPECTED["edm2/fid/sigma"], rtol=1e-9, atol=1e-12)


def test_a_reference_of_another_dimension_is_refused() -> None:
    with pytest.raises(UserError, match=r"mu \[12\].*2048 features"):
        read_statistics(DATA / "edm_ref.npz", "fid", 2048)


def test_a_reference_for_another_metric_is_refused() -> None:
    with pytest.raises(UserError, match="nothing for fd_dinov2"):
        read_statistics(DATA / "edm2_ref_fid_only.pkl", "fd_dinov2", 9)


@pytest.mark.parametrize("name", ["edm_ref.npz", "edm2_ref.pkl"])
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    content = (DATA / name).read_bytes()
    for size in (0, 3, 100, len(content) // 2, len(content) - 1):
        path = tmp_path / name
        path.write_bytes(content[:size])
        with pytest.raises(UserError) as error:
            read_statistics(path, "fid", 12)
        assert "\n" not in str(error.value)


def test_an_npz_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, mean=np.zeros(12))
    with pytest.raises(UserError, match="holds mean, not mu and sigma"):
        read_statistics(path, "fid", 12)
    np.savez(path, mu=np.full(12, np.nan), sigma=np.eye(12))
    with pytest.raises(UserError, match="not all finite"):
        read_statistics(path, "fid", 12)
    np.savez(path, mu=np.array([object()] * 12), sigma=np.eye(12))
    with pytest.raises(UserError, match="other things than plain numbers"):
        read_statistics(path, "fid", 12)


@pytest.mark.parametrize(("at", "word"), [((3, 3), "not positive semi-definite"), ((3, 4), "not symmetric")])
def test_a_matrix_that_is_no_covariance_is_refused_before_any_image_is_made(
    tmp_path: Path, at: tuple[int, int], word: str
) -> None:
    sigma = np.eye(12)
    sigma[at] = -0.01
    np.savez(tmp_path / "other.npz", mu=np.zeros(12), sigma=sigma)
    with pytest.raises(UserError, match=f"other.npz: a covariance is {word}"):
        read_statistics(tmp_path / "other.npz", "fid", 12)


def test_a_pickled_reference_with_foreign_globals_is_refused_without_running_it(tmp_path: Path) -> None:
    marker = tmp_path / "PWNED"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))  # type: ignore[return-value]

    path = tmp_path / "reference.pkl"
    path.write_bytes(pickle.dumps({"fid": Hostile()}, protocol=4))
    with pytest.raises(UserError):
        read_statistics(path, "fid", 12)
    assert not marker.exists()


def test_reference_images_are_read_and_another_resolution_is_refused(tmp_path: Path) -> None:
    images = read_reference_images(DATA / "precision_recall_style.npz", 16)
    assert images.shape == (4, 3, 16, 16) and images.dtype == np.uint8
    with np.load(DATA / "precision_recall_style.npz") as archive:
        np.testing.assert_array_equal(images.transpose(0, 2, 3, 1), archive["arr_0"])
    with pytest.raises(UserError, match=r"\[N, 64, 64, 3\]"):
        read_reference_images(DATA / "precision_recall_style.npz", 64)
