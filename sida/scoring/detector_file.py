"""Where the detector's file is: fetched, or put there by hand; with its digest."""

from __future__ import annotations

from pathlib import Path

from sida.errors import UserError
from sida.recipe import Detector
from sida.teachers.fetch import local_file


def detector_file(detector: Detector) -> tuple[Path, str]:
    """The detector's file and its sha256; what the recipe pins is what it must be.

    Raises UserError that says where the published file is to be had when it cannot be fetched.
    """
    try:
        return local_file(detector.address, "detector", detector.sha256)
    except UserError as error:
        if detector.kind != "inception":
            raise
        from sida.scoring.torchscript_facts import where_to_get_it

        raise UserError(f"{error}; {where_to_get_it()}") from error
