"""The worker's side of reference_statistics: the training set through the detector, in float64, by any number of processes."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sida.data.latents import decoder_of
from sida.data.shards import Shards, network_input
from sida.launch.spec import ReferenceOutcome, ReferenceSpec
from sida.manifests import DatasetResult
from sida.numerics.draws import Draws
from sida.numerics.frechet import Moments
from sida.progress import Progress
from sida.scoring.detector import Detector, load_detector
from sida.scoring.partial import Piece, discard, gather, pieces
from sida.scoring.reference import state_of
from sida.scoring.reference_files import read_images
from sida.scoring.sums import KEEP_FEATURES, MOMENTS, Sums
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object
from sida.worker.job import Job

REAL_IMAGES = (
    200_000  # at most this many real images take part in KID, precision and recall, as in the published metrics
)


def reference(job: Job[ReferenceSpec]) -> ReferenceOutcome | None:
    """Compute the moments, and the features themselves if asked for; the first process returns them."""
    dataset = job.manifest(job.spec.dataset, DatasetResult).result
    shards = Shards(job.store, dataset)
    detector = load_detector(fetch_object(job.store, job.spec.detector)).to(job.processes.device)
    features, batch = job.spec.features, job.recipe.execution.batch_limit
    kept = _kept(len(shards)) if job.spec.keep else None
    latents = job.recipe.dataset.latents
    decode = decoder_of(latents, job.processes.device) if latents and dataset.record == "latents" else None
    empty = partial(Sums, features, len(shards), (KEEP_FEATURES,) if job.spec.keep else ())
    progress = Progress(job.step, len(shards), "images") if job.processes.first else None
    done = 0

    def report(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress.update(min(len(shards), done))

    def sums_of(piece: Piece) -> Sums:
        sums = empty()
        for start in range(piece.start, piece.stop, batch):
            rows = torch.arange(start, min(start + batch, piece.stop))
            images = shards.read(rows)[0].to(job.processes.device)
            if decode is not None:  # what the VAE gives back of each image
                images = decode(network_input(images, dataset))
            with torch.no_grad():
                sums.add(detector, images, start)
            report(len(rows) * job.processes.world)
        if kept is not None and sums.features:
            sums.features = [torch.cat(sums.features)[kept[piece.start : piece.stop]]]
        return sums

    work = pieces(1, len(shards))
    gather(job, work, sums_of, report)
    if not job.processes.first:
        return None
    moments, real = _merge(job, work, features)
    outcome = ReferenceOutcome(
        moments=_put(job, state_of(moments), "reference.safetensors"),
        real_features=_put(job, {"features": torch.cat(real)}, "real-features.safetensors") if real else None,
        precision_recall_features=None
        if job.spec.images is None
        else _published(job, job.spec.images, dataset, detector),
    )
    discard(job, work)
    return outcome


def _published(job: Job[ReferenceSpec], images: ObjectRef, dataset: DatasetResult, detector: Detector) -> ObjectRef:
    """Return features of published reference images."""
    pixels = torch.from_numpy(read_images(fetch_object(job.store, images), dataset.resolution))
    features = _features(detector, pixels, job.recipe.execution.batch_limit, job.processes.device)
    return _put(job, {"features": features}, "reference-images.safetensors")


def _merge(job: Job[ReferenceSpec], work: list[Piece], features: int) -> tuple[Moments, list[Tensor]]:
    """Merge in the order of the pieces: the same bits on any number of processes."""
    from safetensors.torch import load

    moments, real = Moments(features), []
    for piece in work:
        state = load(job.store.read(f"{job.folder}/{piece.name}"))
        moments.merge(Moments.from_state([state[name] for name in MOMENTS]))
        if "features" in state:
            real.append(state["features"])
    return moments, real


def _kept(count: int) -> Tensor:
    """Return bool [count]: all images, or a seeded choice of REAL_IMAGES of them."""
    kept = torch.ones(count, dtype=torch.bool)
    if count > REAL_IMAGES:
        kept[Draws(0).permutation("real images", count)[REAL_IMAGES:]] = False
    return kept


def _features(detector: Detector, images: Tensor, batch: int, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([detector(part.to(device)).to("cpu", torch.float32) for part in images.split(batch)])


def _put(job: Job[ReferenceSpec], tensors: dict[str, Tensor], name: str) -> ObjectRef:
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        return job.put(path, name)
