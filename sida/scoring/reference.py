"""The step reference_statistics: what the training set looks like to the detector."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.foreign.fetch import fetch_file
from sida.manifests import ReferenceResult, read_manifest
from sida.recipe import Recipe
from sida.steps import Context, Published, step

if TYPE_CHECKING:
    from sida.numerics.frechet import Moments
    from sida.stores import ObjectStore

CHUNK = 4096


@step("reference_statistics", version=1, sources=("sida/scoring", "sida/data/shards.py", "sida/numerics"))
def reference_statistics(context_of: Any, *, recipe: Recipe, dataset: str, attempt: str = "") -> Published:
    """Compute the detector's feature statistics over the whole training set, in float64."""
    data = read_manifest(dataset, "dataset")
    evaluation = recipe.evaluation
    path, digest = fetch_file(
        evaluation.detector.address, "detector", evaluation.detector.sha256, step="reference_statistics"
    )

    def produce(context: Context) -> ReferenceResult:
        import torch

        from sida.data.shards import Shards
        from sida.numerics.frechet import Moments
        from sida.scoring.detector import load_detector

        detector = load_detector(path)
        shards = Shards(context.store, data.result)  # type: ignore[arg-type]
        moments = Moments(evaluation.detector.features)
        for start in range(0, len(shards), CHUNK):
            images, _ = shards.read(torch.arange(start, min(start + CHUNK, len(shards))))
            moments.add(detector(images))
        return ReferenceResult(
            metric=evaluation.metric,
            detector_sha256=digest,
            detector=context.put(path, path.name),
            features=evaluation.detector.features,
            count=len(shards),
            moments=put_moments(context, moments, "reference.safetensors"),
            dataset_digest=data.digest,
        )

    parameters = {
        "metric": evaluation.metric,
        "detector": digest,
        "features": evaluation.detector.features,
    }
    return context_of(parameters=parameters, inputs={"dataset": data}, produce=produce, attempt=attempt)


def put_moments(context: Context, moments: Moments, name: str) -> Any:
    """Store feature moments as safetensors."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save_file(dict(zip(("count", "sum", "outer"), moments.state(), strict=True)), path)
        return context.put(path, name)


def load_moments(store: ObjectStore, reference: ReferenceResult) -> Moments:
    """The reference's feature moments."""
    from safetensors.torch import load_file

    from sida.numerics.frechet import Moments
    from sida.stores.base import fetch_object

    tensors = load_file(fetch_object(store, reference.moments))
    return Moments.from_state([tensors[name] for name in ("count", "sum", "outer")])
