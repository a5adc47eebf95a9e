"""Scores by clean-fid itself (Parmar et al., arXiv 2104.11222), an extra: imported here only, and only when it is asked for.

Its features of a folder of images, our reference statistics, its own Frechet distance. The mode is part of the metric's name:
``legacy_tensorflow`` is the published FID's resize, ``clean`` another number. Facts: clean-fid 0.1.35 needs torchvision.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.recipe import Recipe

BACKENDS = {"cleanfid-legacy_tensorflow": "legacy_tensorflow", "cleanfid-clean": "clean"}


@dataclass(frozen=True)
class CleanFid:
    """What clean-fid said."""

    metric: str  # fid_cleanfid_legacy_tensorflow
    value: float
    text: str


def score_folder(folder: Path, recipe: Recipe, backend: str) -> CleanFid:
    """A folder's score against the recipe's published statistics. Raises UserError without clean-fid, or for another source."""
    mode = BACKENDS[backend]
    given = recipe.evaluation.reference
    if given is None:
        raise UserError(f"--backend {backend}: recipe {recipe.name} names no published statistics: use --backend ours")
    if not folder.is_dir():
        raise UserError(f"--backend {backend}: {folder} is no folder: clean-fid scores folders of images")
    if mode == "clean" and recipe.evaluation.metric == "fid":
        # The published statistics are those of the TensorFlow resize.
        raise UserError(
            f"--backend {backend}: the published statistics of {recipe.name} were made with the legacy_tensorflow resize; "
            f"clean scores need clean statistics: use --backend cleanfid-legacy_tensorflow"
        )
    fid: Any = _clean_fid()
    from sida.foreign.fetch import fetch_file
    from sida.scoring.images import find_images
    from sida.scoring.published import read_statistics

    count = len(find_images(folder, recipe.evaluation.images))
    path, _ = fetch_file(given.address, "reference", given.sha256)
    reference = read_statistics(path, recipe.evaluation.metric, recipe.evaluation.detector.features)
    import numpy as np
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = fid.build_feature_extractor(mode, device, use_dataparallel=False)
    features = fid.get_folder_features(
        str(folder), model, num_workers=0, num=count, mode=mode, device=device, batch_size=64, verbose=False
    )
    covariance = np.cov(features, rowvar=False)
    value = fid.frechet_distance(features.mean(axis=0), covariance, reference.mean, reference.covariance)
    return CleanFid(f"fid_cleanfid_{mode}", float(value), f"{count:,} images, clean-fid's features and distance")


def _clean_fid() -> Any:
    try:
        return importlib.import_module("cleanfid.fid")
    except ImportError as error:
        raise UserError(
            f"--backend cleanfid needs the package clean-fid, with a torchvision that fits this torch ({error}): "
            f"pip install clean-fid in an environment of its own, or use --backend ours, which computes the same FID"
        ) from error
