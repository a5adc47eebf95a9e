"""The step reference_statistics: what the training set looks like to the detector.

Published statistics where the recipe names them, our own where there are images, and both compared where there are both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sida.errors import UserError
from sida.foreign.fetch import Check, fetch_file
from sida.launch.job import run_job
from sida.launch.spec import ManifestRef, ReferenceSpec
from sida.manifests import DatasetResult, Manifest, ReferenceResult, input_of
from sida.recipe import Evaluation, Recipe, ReferenceFile
from sida.scoring.detector_file import detector_file
from sida.steps import From, Made, StepRun, step
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sida.stores import ObjectStore

COMPARED_IMAGES = 100_000  # larger training sets are not passed through the detector only to check published statistics
KEPT_BYTES = 2**30  # of real features beside our own statistics, where no metric asks for them


def _asks(recipe: Recipe) -> dict[str, Any]:
    evaluation = recipe.evaluation
    kept = bool(set(evaluation.extra_metrics) - {"is"})
    return {"metric": evaluation.metric, "features": evaluation.detector.features, "kept": kept}


def _repeats(made: Made[ReferenceResult]) -> dict[str, Any]:
    dataset, evaluation = input_of(made.inputs, "dataset", DatasetResult), made.recipe.evaluation
    detector, published = (made.about.parameters[name] for name in ("detector", "published"))
    fields = {
        "metric": evaluation.metric,
        "features": evaluation.detector.features,
        "detector_sha256": detector,
        "detector.sha256": detector,
        "dataset_digest": dataset.digest,
        "origin": "published" if published else "computed",
        "source_sha256": published,
    }
    return fields | ({"source.sha256": published} if published else {"count": dataset.result.count})


@step(
    version=3,
    sources=("sida/scoring", "sida/data/shards.py", "sida/numerics"),
    launches=True,
    per_recipe=True,
    asks=_asks,
    repeats=_repeats,
)
def reference_statistics(
    run: StepRun,
    recipe: Recipe,
    dataset: Annotated[Manifest[DatasetResult], From("prepare_data", "score_data")],
) -> ReferenceResult:
    """Compute what the training set looks like to the detector; scores are distances to it.

    Published statistics are taken where the recipe names them, and checked against our own where the images are there.

    Args:
        dataset: The training set as shards.

    Returns:
        Feature moments of the whole set, in float64.
    """
    evaluation, data = recipe.evaluation, dataset.result
    features = evaluation.detector.features
    path, digest = detector_file(evaluation.detector)
    published = _fetched(evaluation.reference, "reference", lambda path: check_statistics(path, recipe))
    images = _fetched(
        evaluation.precision_recall_reference, "reference images", lambda path: check_images(path, recipe)
    )
    extra = bool(set(evaluation.extra_metrics) - {"is"})
    parameters = {"detector": digest, "published": published and published[1], "images": images and images[1]}
    run.claim(parameters, dataset=dataset)
    stored = run.put(path, path.name)
    fields = {} if published is None else _published(run, *published)
    pictures, latents = bool(data.shards) and data.record != "labels", data.record == "latents"
    if latents and pictures and published is None:
        run.note(
            "these statistics are of what the VAE gives back, not of the images: published ones (evaluation.reference) are of "
            "the images, and scores differ",
        )
    # A decoder's pictures are not the images that published statistics are of: there is nothing to compare.
    if pictures and (published is None or extra or (data.count <= COMPARED_IMAGES and not latents)):
        compared = images if "precision_recall" in evaluation.extra_metrics else None
        spec = ReferenceSpec(
            dataset=ManifestRef.of(dataset),
            detector=stored,
            features=features,
            keep=extra or data.count * features * 4 <= KEPT_BYTES,
            images=None if compared is None else run.put(compared[0], compared[0].name),
        )
        outcome = run_job(run, spec)
        fields["real_features"] = outcome.real_features
        fields["precision_recall_features"] = outcome.precision_recall_features
        if published is None:
            fields |= {"moments": outcome.moments, "count": data.count}
        else:
            fields |= {"computed": outcome.moments, "difference": _difference(run, fields["moments"], outcome.moments)}
    elif published is None:
        raise UserError(
            f"recipe {recipe.name}: the data set holds no images to compute statistics from: name published ones in "
            f"evaluation.reference"
        )
    return ReferenceResult(
        metric=evaluation.metric,
        detector_sha256=digest,
        detector=stored,
        features=features,
        dataset_digest=dataset.digest,
        **fields,
    )


def _published(run: StepRun, path: Path, sha256: str) -> dict[str, Any]:
    """Return the fields of a result that published statistics fill."""
    from sida.scoring.reference_files import read_statistics

    evaluation = run.recipe.evaluation
    statistics = read_statistics(path, evaluation.metric, evaluation.detector.features)
    if statistics.counts and statistics.count is None:
        run.note(f"{path.name} does not say of how many images it was made (num_images is missing)")
    if statistics.images:
        run.note(_used(path, statistics.images, evaluation))
    moments = {"mean": statistics.mean, "covariance": statistics.covariance}
    return {
        "origin": "published",
        "source_sha256": sha256,
        "source": run.put(path, path.name),
        "count": statistics.count or 0,
        "moments": put_tensors(run.put, moments, "published.safetensors"),
    }


def _used(path: Path, images: tuple[int, ...], evaluation: Evaluation) -> str:
    """Say which part of a file with statistics and images is used for what."""
    used = f"{path.name} holds statistics and {images[0]:,} images: {evaluation.metric} is measured against its mu and sigma"
    given, second = evaluation.reference, evaluation.precision_recall_reference
    if given is not None and second is not None and (given.address, given.sha256) == (second.address, second.sha256):
        return f"{used}, precision and recall against its images (arr_0)"
    return f"{used}; its images are not used: name it as evaluation.precision_recall_reference too for precision and recall"


def _fetched(given: ReferenceFile | None, what: str, check: Check) -> tuple[Path, str] | None:
    if given is None:
        return None
    return fetch_file(given.address, what, given.sha256, step="reference_statistics", check=check)


def check_statistics(path: Path, recipe: Recipe) -> None:
    """Raise UserError unless a file holds statistics of the recipe's metric."""
    from sida.scoring.reference_files import read_statistics

    read_statistics(path, recipe.evaluation.metric, recipe.evaluation.detector.features)


def check_images(path: Path, recipe: Recipe) -> None:
    """Raise UserError unless a file holds reference images of the recipe's size."""
    from sida.scoring.reference_files import read_reference_images

    channels, resolution = recipe.dataset.picture
    read_reference_images(path, resolution, channels)


def _difference(run: StepRun, published: ObjectRef, ours: ObjectRef) -> float:
    from sida.numerics.frechet import frechet_distance

    distance = frechet_distance(*_statistics(run.store, published), *_statistics(run.store, ours))
    run.note(f"published and our own statistics differ by a Frechet distance of {distance:.4f}")
    return distance


def put_tensors(
    put: Callable[[Path, str], ObjectRef], tensors: Mapping[str, Tensor | np.ndarray], name: str
) -> ObjectRef:
    """Store tensors as a safetensors file by a step's or a job's ``put``."""
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save_file({key: torch.as_tensor(value).contiguous() for key, value in tensors.items()}, path)
        return put(path, name)


def _statistics(store: ObjectStore, ref: ObjectRef) -> tuple[Tensor, Tensor]:
    from safetensors.torch import load_file

    from sida.numerics.frechet import Moments

    tensors = load_file(fetch_object(store, ref))
    if "mean" in tensors:
        return tensors["mean"], tensors["covariance"]
    # Over N - 1, as NVIDIA's published statistics.
    return Moments.from_state([tensors[name] for name in ("count", "sum", "outer")]).mean_cov(ddof=1)


def load_statistics(store: ObjectStore, reference: ReferenceResult) -> tuple[Tensor, Tensor]:
    """Return mean [F] and covariance [F, F] of the training set, float64, that scores are distances to."""
    return _statistics(store, reference.moments)


def load_features(store: ObjectStore, reference: ReferenceResult, *, precision_recall: bool = False) -> Tensor:
    """Return features [N, F] of real images. Raises UserError when the reference was made without."""
    from safetensors.torch import load_file

    ref = (precision_recall and reference.precision_recall_features) or reference.real_features
    if not ref:
        raise UserError(
            "KID, precision and recall compare single images, and this reference holds statistics only: give the recipe a "
            "data set of images, or take these out of evaluation.extra_metrics"
        )
    return load_file(fetch_object(store, ref))["features"]
