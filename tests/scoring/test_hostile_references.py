"""References of others: sizes and headers are compared before anything is inflated; any byte order is read."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sida.errors import UserError
from sida.scoring.reference_files import read_reference_images, read_statistics

MU, SIGMA = np.arange(12.0), np.diag(np.arange(1.0, 13))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def good(**changes: bytes) -> dict[str, bytes]:
    return {"mu.npy": npy(MU), "sigma.npy": npy(SIGMA)} | {f"{name}.npy": content for name, content in changes.items()}


def refused(path: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_statistics(path, "fid", 12)
    line = str(caught.value)
    assert str(path) in line and len(line) <= 300 and "pickle" not in line


def edited(path: Path, at: int, value: bytes) -> Path:
    """Overwrite a field of all entries of a zip's directory."""
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\1\2")
    while place >= 0:
        content[place + at : place + at + len(value)] = value
        place = content.find(b"PK\1\2", place + 1)
    path.write_bytes(content)
    return path


def test_members_that_are_not_what_numpy_writes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    refused(npz(path, good(mu=npy(MU).replace(b"(12,)", b"(99,)"))), "mu is of 224 bytes, its header says otherwise")
    refused(npz(path, good(mu=npy(MU).replace(b"(12,)", b"(-2,)"))), "shape is not a short list of lengths")
    refused(npz(path, good(mu=b"hello")), "damaged")
    refused(npz(path, good(mu=npy(MU.astype(complex)))), "mu is complex128, expected float32")
    refused(npz(path, good(mu=npy(MU)[:-8])), "its header says otherwise")
    refused(npz(path, good(mu=npy(MU).replace(b"'<f8'", b"'|O8'"))), "damaged")
    refused(npz(path, good(), zipfile.ZIP_BZIP2), "compressed by method 12")
    refused(edited(npz(path, good()), 8, b"\x01\x00"), "is encrypted")
    refused(edited(npz(path, good()), 10, b"\x63\x00"), "compressed by method 99")
    refused(edited(npz(path, good(), zipfile.ZIP_STORED), 24, (2**31).to_bytes(4, "little")), "its two sizes differ")


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ref.npz", "w") as archive:
        for name, content in good().items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("mu.npy", npy(MU + 1))
    refused(tmp_path / "ref.npz", "mu.npy is in it twice")


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    count = 2_000_000  # 96 MB from 95 kB
    head = npy(np.zeros((0, 4, 4, 3), np.uint8)).replace(b"(0, 4, 4, 3), }       ", f"({count}, 4, 4, 3), }} ".encode())
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w") as file,
    ):
        file.write(head)
        for _ in range(48):
            file.write(bytes(count))
    tracemalloc.start()
    with pytest.raises(UserError, match="far more memory than the file has bytes"):
        read_reference_images(tmp_path / "bomb.npz", 4)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def pickled(path: Path, mu: Any, **others: Any) -> Path:
    path.write_bytes(pickle.dumps({"fid": {"mu": mu, "sigma": SIGMA}, **others}, 4))
    return path


@pytest.mark.parametrize("kind", [">f8", "<f8", "<f4", ">f4"])
def test_any_byte_order_is_read(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=MU.astype(kind), sigma=SIGMA.astype(kind))
    for path in (tmp_path / "ref.npz", pickled(tmp_path / "ref.pkl", MU.astype(kind), num_images=50)):
        found = read_statistics(path, "fid", 12)
        np.testing.assert_array_equal(found.mean, MU)
        np.testing.assert_array_equal(found.covariance, SIGMA)
        assert found.mean.dtype == np.dtype("float64") and found.mean.dtype.isnative


def test_a_mean_that_is_no_array_is_refused_at_once(tmp_path: Path) -> None:
    shared: Any = [0.0]
    for _ in range(30):
        shared = [shared, shared]
    for mu in (shared, [[1.0], [1.0, 2.0]], 3.0):
        refused(pickled(tmp_path / "ref.pkl", mu), "mu is (list|float), not a numpy array")


@pytest.mark.parametrize("count", [-5, 0, True, "many", 2.5, 2**63, 10**400])
def test_a_count_of_images_that_is_none_is_refused(count: object, tmp_path: Path) -> None:
    refused(pickled(tmp_path / "ref.pkl", MU, num_images=count), "num_images is ")


@pytest.mark.parametrize("factor", [1e160, 1e300])
def test_numbers_that_no_feature_has_are_refused(factor: float, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=MU, sigma=SIGMA * factor)
    refused(tmp_path / "ref.npz", "beyond")
    np.savez(tmp_path / "ref.npz", mu=np.full_like(MU, factor), sigma=SIGMA)
    refused(tmp_path / "ref.npz", "beyond")


def test_a_pickle_that_does_not_say_of_how_many_images_it_is_is_known(tmp_path: Path) -> None:
    found = read_statistics(pickled(tmp_path / "ref.pkl", MU), "fid", 12)
    assert found.counts and found.count is None
    np.savez(tmp_path / "ref.npz", mu=MU, sigma=SIGMA)
    assert not read_statistics(tmp_path / "ref.npz", "fid", 12).counts  # none of this kind says
