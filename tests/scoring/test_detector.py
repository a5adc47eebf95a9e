"""The detector: run at a known digest only, in float32, with its own resize; features and probabilities of one pass agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sida.errors import UserError
from sida.recipe import Detector
from sida.scoring.detector import load_detector
from sida.scoring.detector_file import INCEPTION_ADDRESS, INCEPTION_SHA256, detector_file
from sida.scoring.torchscript import TorchScriptDetector
from sida.stores.objects import sha256_of
from tests.scoring.stand_in import CLASSES, FEATURES, write_stand_in


def images(count: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_stand_in(tmp_path / "detector.pt")
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", sha256_of(path)[0])
    return path


def test_a_torchscript_file_at_another_digest_is_refused_without_running_it(tmp_path: Path) -> None:
    path = write_stand_in(tmp_path / "detector.pt")
    with pytest.raises(UserError, match=r"holds code.*--trust-detector [0-9a-f]{64}") as error:
        load_detector(path)
    assert sha256_of(path)[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_trusted_digest_is_loaded_and_a_changed_byte_is_not(trusted: Path) -> None:
    assert isinstance(load_detector(trusted), TorchScriptDetector)
    content = bytearray(trusted.read_bytes())
    content[len(content) // 2] ^= 1
    trusted.write_bytes(content)
    with pytest.raises(UserError, match="holds code"):
        load_detector(trusted)


def test_a_trusted_digest_must_be_a_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", "yes")
    with pytest.raises(UserError, match=r"SIDA_TRUST_DETECTOR.*64 lower-case hex"):
        load_detector(write_stand_in(tmp_path / "detector.pt"))


def test_features_are_float32_and_grey_images_count_as_three_equal_channels(trusted: Path) -> None:
    detector = load_detector(trusted)
    grey = images(3, channels=1)
    features = detector(grey)
    assert features.shape == (3, FEATURES) and features.dtype == torch.float32
    torch.testing.assert_close(features, detector(grey.repeat(1, 3, 1, 1)))
    assert detector(images(2, size=32)).shape == (2, FEATURES)  # it resizes by itself


@pytest.mark.parametrize("plain_head", [True, False])
def test_probabilities_are_the_network_s_own_whether_or_not_its_head_is_a_plain_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_head: bool
) -> None:
    path = write_stand_in(tmp_path / "detector.pt", plain_head=plain_head)
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", sha256_of(path)[0])
    detector = load_detector(path)
    assert isinstance(detector, TorchScriptDetector)
    x = images(5)
    features, probabilities = detector.with_probabilities(x)
    torch.testing.assert_close(features, detector(x))
    torch.testing.assert_close(probabilities, detector.script(x, no_output_bias=True))
    assert probabilities.shape == (5, CLASSES)
    assert bool((probabilities - detector.script(x)).abs().max() > 1e-4)  # the bias would have shown


def test_a_file_that_is_no_detector_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zip.pt"
    path.write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", sha256_of(path)[0])
    with pytest.raises(UserError, match="not a TorchScript file"):
        load_detector(path)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a detector"):
        load_detector(other)


def test_a_missing_inception_says_where_to_get_it_and_how_to_name_it(tmp_path: Path) -> None:
    address = (tmp_path / "inception.pt").as_uri()
    with pytest.raises(UserError) as error:
        detector_file(Detector(address=address, sha256=INCEPTION_SHA256, features=2048))
    for part in (INCEPTION_ADDRESS, INCEPTION_SHA256, "evaluation.detector.address"):
        assert part in str(error.value)


def test_an_inception_at_another_digest_than_the_recipe_s_is_refused(tmp_path: Path) -> None:
    path = write_stand_in(tmp_path / "inception.pt")
    with pytest.raises(UserError, match=f"the recipe expects {INCEPTION_SHA256}"):
        detector_file(Detector(address=path.as_uri(), sha256=INCEPTION_SHA256, features=2048))
