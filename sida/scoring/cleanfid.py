"""Scores by clean-fid itself (Parmar et al., arXiv 2104.11222), an extra: imported here only, and only when it is asked for.

Its resize and its feature loop over pixels that we decoded, our reference statistics, its Frechet distance. The mode is part of the
metric's name: ``legacy_tensorflow`` is the published FID's resize, ``clean`` another number against statistics made in that mode.
clean-fid fetches the detector by itself and looks at no digest: it gets ours, checked, in a folder of its own. Facts of 0.1.35:
needs torchvision; calls ``scipy.linalg.sqrtm(disp=)``, which SciPy 1.18 dropped.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida import progress
from sida.data.prepare import prepare_data
from sida.errors import NotFound, UserError
from sida.foreign.fetch import fetch_file
from sida.layout import cleanfid_key
from sida.manifests import digest_of
from sida.printing import one_line
from sida.process.scratch import scratch_folder
from sida.recipe import Recipe
from sida.scoring.compression import SAVE, lossy_in_words
from sida.scoring.detector_file import detector_file
from sida.scoring.images import Images, decoder, find_images
from sida.settings import settings
from sida.stores import open_store

if TYPE_CHECKING:
    import numpy as np

    from sida.scoring.reference_files import Statistics

BACKENDS = {"cleanfid-legacy_tensorflow": "legacy_tensorflow", "cleanfid-clean": "clean"}
FEATURES = 2048  # clean-fid's code takes no other number
BATCH = 64


@dataclass(frozen=True)
class CleanFid:
    """Result of clean-fid."""

    metric: str  # fid_cleanfid_legacy_tensorflow
    value: float
    text: str


def score_folder(folder: Path, recipe: Recipe, backend: str) -> CleanFid:
    """Score a folder against the recipe's statistics. Raises UserError without clean-fid, or for another source."""
    mode = BACKENDS[backend]
    if not folder.is_dir():
        raise UserError(f"--backend {backend}: {folder} is no folder: clean-fid scores folders of images")
    features = recipe.evaluation.detector.features
    if recipe.evaluation.metric != "fid" or features != FEATURES:
        raise UserError(
            f"--backend {backend}: clean-fid computes FID on {FEATURES} features, recipe {recipe.name} has "
            f"{recipe.evaluation.metric} on {features}: use --backend ours"
        )
    fid: Any = _clean_fid("fid")

    paths = find_images(folder, recipe.evaluation.images)
    detector, digest = detector_file(recipe.evaluation.detector)
    import numpy as np

    from sida import devices

    device = devices.claim()
    model = _model(detector, mode, device)
    given = recipe.evaluation.reference
    if mode == "legacy_tensorflow" and given is not None:
        from sida.scoring.reference_files import read_statistics

        path, _ = fetch_file(
            given.address, "reference", given.sha256, check=lambda path: read_statistics(path, "fid", FEATURES)
        )
        reference, origin = read_statistics(path, "fid", FEATURES), "published statistics"
    else:  # published statistics are those of the TensorFlow resize
        reference, origin = _statistics(recipe, mode, model, digest, device), f"the training set's own in mode {mode}"
    options = {"num_workers": 0, "batch_size": BATCH, "device": device, "mode": mode, "verbose": False}
    images = Images(paths, decoder(recipe), recipe.evaluation.images)
    seen = np.concatenate(list(_features(fid, images, model, options))).astype(np.float64)
    for line in images.notes():
        progress.note("cleanfid", line)
    if images.lossy:
        progress.note("cleanfid", f"{lossy_in_words(images.lossy, len(images.paths))}: {SAVE}")
    value, distance = _distance(fid, seen.mean(axis=0), np.cov(seen, rowvar=False), reference)
    text = f"{len(images.paths):,} images, clean-fid's features, {distance}; reference: {origin}"
    return CleanFid(f"fid_cleanfid_{mode}", value, text)


def _features(fid: Any, images: Images, model: Any, options: dict[str, Any]) -> Iterator[np.ndarray]:
    """Yield clean-fid's features. It gets our pixels as .npy: it would resize images of another size and open any format."""
    import numpy as np

    with scratch_folder() as folder:
        for start in range(0, len(images.paths), BATCH):
            files = []
            for number, image in enumerate(images.read(slice(start, start + BATCH))):
                files.append(str(folder / f"{number}.npy"))
                np.save(
                    files[-1], np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
                )
            yield fid.get_files_features(files, model=model, **options)


def _clean_fid(module: str) -> Any:
    try:
        return importlib.import_module(f"cleanfid.{module}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        reason = one_line(str(error), 200)
        raise UserError(
            f"--backend cleanfid needs the package clean-fid, with a torchvision that fits this torch ({reason}): "
            f"pip install clean-fid in an environment of its own, or use --backend ours, which computes the same FID"
        ) from error


def _model(detector: Path, mode: str, device: Any) -> Callable[[Any], Any]:
    """Return clean-fid's own wrapper around the detector; only a file that may run is handed to it."""
    from sida.scoring.torchscript import trusted_bytes

    content = trusted_bytes(detector)
    wrapper = _clean_fid("inception_torchscript").InceptionV3W
    with tempfile.TemporaryDirectory(prefix="sida-cleanfid-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch calls its own format old
        Path(folder, "inception-2015-12-05.pt").write_bytes(content)
        model = wrapper(folder, download=False, resize_inside=mode == "legacy_tensorflow").to(device).eval()
    return lambda images: model(images)  # its feature loop takes a function


def _distance(fid: Any, mean: np.ndarray, covariance: np.ndarray, reference: Statistics) -> tuple[float, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # SciPy of the argument that clean-fid gives
            value = float(fid.frechet_distance(mean, covariance, reference.mean, reference.covariance))
        return value, "clean-fid's distance"
    except TypeError:  # SciPy without sqrtm(disp=)
        from sida.numerics.frechet import frechet_distance

        value = frechet_distance(mean, covariance, reference.mean, reference.covariance)
        return value, "our distance (clean-fid's does not run with this SciPy)"


def _statistics(recipe: Recipe, mode: str, model: Any, detector: str, device: Any) -> Statistics:
    """Return the training set's statistics, through clean-fid's resize of this mode and its model; kept in the store."""
    import numpy as np
    import torch
    from safetensors.torch import load, save

    from sida.data.shards import Shards
    from sida.numerics.frechet import Moments
    from sida.scoring.reference_files import Statistics

    data = prepare_data(recipe=recipe).manifest
    dataset = data.result
    if dataset.record != "pixels":
        raise UserError(
            f"recipe {recipe.name}: its data set holds {dataset.record}, no images to make {mode} statistics from: use "
            f"--backend ours"
        )
    store = open_store(settings().store)
    key = cleanfid_key(digest_of([mode, detector, data.digest]))
    try:
        tensors = load(store.read(key))
    except NotFound:
        resize = _clean_fid("resize").build_resizer(mode)
        shards, moments = Shards(store, dataset), Moments(FEATURES)
        bar = progress.Progress("cleanfid", len(shards), "images")
        for start in range(0, len(shards), BATCH):
            images, _ = shards.read(torch.arange(start, min(start + BATCH, len(shards))))
            pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
            resized = np.stack([np.asarray(resize(one)) for one in pixels]).astype(np.float32)
            with torch.no_grad():
                moments.add(model(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device)).cpu())
            bar.update(start + len(images))
        mean, covariance = moments.mean_cov(ddof=1)
        tensors = {"mean": mean, "covariance": covariance}
        store.put(key, save(tensors))
    return Statistics(tensors["mean"].numpy(), tensors["covariance"].numpy(), dataset.count)
