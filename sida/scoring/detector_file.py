"""File of the detector: fetched, or put there by hand; with its digest."""

from __future__ import annotations

from pathlib import Path

from sida.errors import SidaError, UserError
from sida.foreign.fetch import fetch_file
from sida.recipe import Detector
from sida.scoring.torchscript_facts import where_to_get_it


def detector_file(detector: Detector) -> tuple[Path, str]:
    """Return the detector's file and its sha256, which must be the one that the recipe pins.

    Raises UserError that says where to get the published file when it cannot be fetched.
    """
    try:
        return fetch_file(detector.address, "detector", detector.sha256, step="reference_statistics")
    except SidaError as error:
        if detector.kind != "inception":
            raise

        raise UserError(f"{error}; {where_to_get_it()}") from error
