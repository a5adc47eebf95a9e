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
from sida.manifests import DatasetResult, DetectorStatistics, Manifest, ReferenceResult, input_of
from sida.recipe import Evaluation, Recipe, ReferenceFile, SecondMetric
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
    kept, second = bool(set(evaluation.extra_metrics) - {"is"}), evaluation.second
    asked = {"metric": evaluation.metric, "features": evaluation.detector.features, "kept": kept}
    if second is None:
        return asked
    return asked | {"second_metric": second.metric, "second_features": second.detector.features}


def _repeats(made: Made[ReferenceResult]) -> dict[str, Any]:
    dataset, evaluation = input_of(made.inputs, "dataset", DatasetResult), made.recipe.evaluation
    parameters, count, second = made.about.parameters, dataset.result.count, evaluation.second
    fields = _described(evaluation, parameters["detector"], parameters["published"], count)
    if second is not None:
        others = _described(second, parameters["second_detector"], parameters["second_published"], count)
        fields |= {f"second.{name}": value for name, value in others.items()}
    return fields | {"dataset_digest": dataset.digest}


def _described(measured: Evaluation | SecondMetric, detector: str, published: str | None, count: int) -> dict[str, Any]:
    """Return the fields of a detector's statistics that recipe, digests and data decide."""
    fields = {
        "metric": measured.metric,
        "features": measured.detector.features,
        "detector_sha256": detector,
        "detector.sha256": detector,
        "origin": "published" if published else "computed",
        "source_sha256": published,
    }
    return fields | ({"source.sha256": published} if published else {"count": count})


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
    evaluation, data, second = recipe.evaluation, dataset.result, recipe.evaluation.second
    path, digest = detector_file(evaluation.detector)
    published = _fetched_statistics(evaluation)
    images = _fetched(
        evaluation.precision_recall_reference, "reference images", lambda path: check_images(path, recipe)
    )
    extra = bool(set(evaluation.extra_metrics) - {"is"})
    parameters = {"detector": digest, "published": published and published[1], "images": images and images[1]}
    other, others = (detector_file(second.detector), _fetched_statistics(second)) if second else (None, None)
    if other is not None:
        parameters |= {"second_detector": other[1], "second_published": others and others[1]}
    run.claim(parameters, dataset=dataset)
    stored, stored_other = run.put(path, path.name), other and run.put(other[0], other[0].name)
    found = {} if published is None else _published(run, evaluation, *published)
    found_other = {} if second is None or others is None else _published(run, second, *others)
    pictures, latents = bool(data.shards) and data.record != "labels", data.record == "latents"
    missing = not found or (second is not None and not found_other)
    place = "evaluation.second.reference" if found else "evaluation.reference"
    if latents and pictures and missing:
        run.note(
            f"these statistics are of what the VAE gives back, not of the images: published ones ({place}) are of the images, "
            f"and scores differ",
        )
    # A decoder's pictures are not the images that published statistics are of: there is nothing to compare.
    comparable = data.count <= COMPARED_IMAGES and not latents
    if pictures and (missing or extra or comparable):
        compared = images if "precision_recall" in evaluation.extra_metrics else None
        takes_part = second is not None and (not found_other or comparable)
        spec = ReferenceSpec(
            dataset=ManifestRef.of(dataset),
            detector=stored,
            features=evaluation.detector.features,
            keep=extra or data.count * evaluation.detector.features * 4 <= KEPT_BYTES,
            images=None if compared is None else run.put(compared[0], compared[0].name),
            second=stored_other if takes_part else None,
            second_features=second.detector.features if second else 0,
        )
        outcome = run_job(run, spec)
        found |= _computed(run, evaluation.metric, found, outcome.moments, data.count)
        found |= {name: getattr(outcome, name) for name in ("real_features", "precision_recall_features")}
        if second is not None and outcome.second_moments is not None:
            found_other |= _computed(run, second.metric, found_other, outcome.second_moments, data.count)
    elif missing:
        raise UserError(
            f"recipe {recipe.name}: the data set holds no images to compute statistics from: name published ones in {place}"
        )
    return ReferenceResult(
        metric=evaluation.metric,
        detector_sha256=digest,
        detector=stored,
        features=evaluation.detector.features,
        dataset_digest=dataset.digest,
        second=_second(second, other[1], stored_other, found_other) if second and other and stored_other else None,
        **found,
    )


def _second(second: SecondMetric, sha256: str, detector: ObjectRef, found: dict[str, Any]) -> DetectorStatistics:
    features = second.detector.features
    return DetectorStatistics(
        metric=second.metric, detector_sha256=sha256, detector=detector, features=features, **found
    )


def _published(run: StepRun, measured: Evaluation | SecondMetric, path: Path, sha256: str) -> dict[str, Any]:
    """Return the fields of a detector's statistics that published ones fill."""
    from sida.scoring.reference_files import read_statistics

    statistics = read_statistics(path, measured.metric, measured.detector.features)
    if statistics.counts and statistics.count is None:
        run.note(f"{path.name} does not say of how many images it was made (num_images is missing)")
    if statistics.images:
        run.note(_used(path, statistics.images, measured, run.recipe.evaluation.precision_recall_reference))
    moments = {"mean": statistics.mean, "covariance": statistics.covariance}
    return {
        "origin": "published",
        "source_sha256": sha256,
        "source": run.put(path, path.name),
        "count": statistics.count or 0,
        "moments": put_tensors(run.put, moments, "published.safetensors"),
    }


def _used(
    path: Path, images: tuple[int, ...], measured: Evaluation | SecondMetric, compared: ReferenceFile | None
) -> str:
    """Say which part of a file with statistics and images is used for what."""
    used = (
        f"{path.name} holds statistics and {images[0]:,} images: {measured.metric} is measured against its mu and sigma"
    )
    given = measured.reference
    if (
        given is not None
        and compared is not None
        and (given.address, given.sha256) == (compared.address, compared.sha256)
    ):
        return f"{used}, precision and recall against its images (arr_0)"
    return f"{used}; its images are not used: name it as evaluation.precision_recall_reference too for precision and recall"


def _computed(run: StepRun, metric: str, published: dict[str, Any], ours: ObjectRef, count: int) -> dict[str, Any]:
    """Return the fields that our own statistics fill, beside published ones or in their place."""
    if not published:
        return {"moments": ours, "count": count}
    return {"computed": ours, "difference": _difference(run, metric, published["moments"], ours)}


def _fetched_statistics(measured: Evaluation | SecondMetric) -> tuple[Path, str] | None:
    return _fetched(measured.reference, "reference", lambda path: check_statistics(path, measured))


def _fetched(given: ReferenceFile | None, what: str, check: Check) -> tuple[Path, str] | None:
    if given is None:
        return None
    return fetch_file(given.address, what, given.sha256, step="reference_statistics", check=check)


def check_statistics(path: Path, measured: Evaluation | SecondMetric) -> None:
    """Raise UserError unless a file holds statistics of the metric."""
    from sida.scoring.reference_files import read_statistics

    read_statistics(path, measured.metric, measured.detector.features)


def check_images(path: Path, recipe: Recipe) -> None:
    """Raise UserError unless a file holds reference images of the recipe's size."""
    from sida.scoring.reference_files import read_reference_images

    channels, resolution = recipe.dataset.picture
    read_reference_images(path, resolution, channels)


def _difference(run: StepRun, metric: str, published: ObjectRef, ours: ObjectRef) -> float:
    from sida.numerics.frechet import frechet_distance

    distance = frechet_distance(*_statistics(run.store, published), *_statistics(run.store, ours))
    run.note(f"published and our own statistics differ by a Frechet distance of {distance:.4f} ({metric})")
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


def load_statistics(store: ObjectStore, reference: DetectorStatistics) -> tuple[Tensor, Tensor]:
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
