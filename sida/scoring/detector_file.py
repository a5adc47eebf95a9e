"""File of the detector, fetched or put there by hand; and facts about the published ones. Imports nothing heavy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sida.errors import SidaError, UserError
from sida.foreign.fetch import fetch_file
from sida.printing import one_line
from sida.recipe import Detector

INCEPTION_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
# k-diffusion (k_diffusion/evaluation.py) pins the same file at this digest.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
DINOV2_ADDRESS = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
# refiners (finegrain-ai, conversion of DINOv2) pins the same file, of 1,217,586,395 bytes, at this digest.
DINOV2_SHA256 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
DINOV2_FEATURES = 1024
_PUBLISHED = {"inception": (INCEPTION_ADDRESS, INCEPTION_SHA256), "dinov2": (DINOV2_ADDRESS, DINOV2_SHA256)}


def detector_file(detector: Detector) -> tuple[Path, str]:
    """Return the detector's file and its sha256, which must be the one that the recipe pins.

    Raises UserError that says where to get the published file when it cannot be fetched.
    """
    check = partial(check_detector, kind=detector.kind)
    try:
        path, digest = fetch_file(
            detector.address, "detector", detector.sha256, step="reference_statistics", check=check
        )
    except SidaError as error:
        if detector.kind not in _PUBLISHED or _PUBLISHED[detector.kind][1] in str(error):  # of another file
            raise
        raise UserError(f"{one_line(str(error), 70)}; {where_to_get_it(detector.kind)}") from error
    check_kind(path, detector.kind)
    return path, digest


def check_detector(path: Path, kind: str) -> None:
    """Raise UserError unless a file is such a detector; TorchScript is not looked into, as only known digests are run."""
    from sida.scoring.detector import is_torchscript, load_detector
    from sida.scoring.dinov2 import read_dinov2

    check_kind(path, kind)
    if kind == "dinov2":
        read_dinov2(path)
    elif not is_torchscript(path):
        load_detector(path)


def check_kind(path: Path, kind: str) -> None:
    """Raise UserError where a file is DINOv2's and the recipe's detector is another, or the other way around."""
    from sida.scoring.detector import holds_dinov2, is_torchscript

    found = not is_torchscript(path) and holds_dinov2(path)
    if found != (kind == "dinov2"):
        what = "a state dict as DINOv2's weights are" if found else "not DINOv2's weights"
        raise UserError(
            f"detector {one_line(str(path), 100)} is {what}, kind is {kind}: correct kind or address of the detector"
        )


def where_to_get_it(kind: str = "inception") -> str:
    """Return how to get the published file, for machines without internet too."""
    address, sha256 = _PUBLISHED[kind]
    return f"by hand: fetch {address} and name it in evaluation.detector.address (sha256 {sha256})"
