"""File of the detector, fetched or put there by hand; and facts about the published one. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from sida.errors import SidaError, UserError
from sida.foreign.fetch import fetch_file
from sida.printing import one_line
from sida.recipe import Detector

INCEPTION_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
# k-diffusion (k_diffusion/evaluation.py) pins the same file at this digest.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


def detector_file(detector: Detector) -> tuple[Path, str]:
    """Return the detector's file and its sha256, which must be the one that the recipe pins.

    Raises UserError that says where to get the published file when it cannot be fetched.
    """
    try:
        return fetch_file(
            detector.address, "detector", detector.sha256, step="reference_statistics", check=check_detector
        )
    except SidaError as error:
        if detector.kind != "inception" or INCEPTION_SHA256 in str(error):  # of another file
            raise
        raise UserError(f"{one_line(str(error), 70)}; {where_to_get_it()}") from error


def check_detector(path: Path) -> None:
    """Raise UserError unless a file is a detector; TorchScript is not looked into, as only known digests are run."""
    from sida.scoring.detector import is_torchscript, load_detector

    if not is_torchscript(path):
        load_detector(path)


def where_to_get_it() -> str:
    """Return how to get the published file, for machines without internet too."""
    return f"by hand: fetch {INCEPTION_ADDRESS} and name it in evaluation.detector.address (sha256 {INCEPTION_SHA256})"
