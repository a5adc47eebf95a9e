"""The worker's side of reference_statistics: the training set through the detector, in float64, by any number of processes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sida.data.latents import decoder_of
from sida.data.shards import Shards, network_input
from sida.launch.spec import ReferenceOutcome, ReferenceSpec
from sida.manifests import DatasetResult
from sida.numerics.draws import Draws
from sida.scoring.detector import Detector, load_detector
from sida.scoring.partial import ImageCount, Piece, discard, gather, merged, pieces
from sida.scoring.reference import put_tensors
from sida.scoring.reference_files import read_reference_images
from sida.scoring.sums import KEEP_FEATURES, MOMENTS, SECOND, Sums
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object
from sida.worker.job import Job

REAL_IMAGES = 200_000  # the most that take part in KID, precision and recall, as in the published metrics


def reference(job: Job[ReferenceSpec]) -> ReferenceOutcome | None:
    """Compute the moments, and the features themselves if asked for; the first process returns them."""
    dataset = job.manifest(job.spec.dataset, DatasetResult).result
    shards = Shards(job.store, dataset)
    detector = load_detector(fetch_object(job.store, job.spec.detector)).to(job.processes.device)
    given = job.spec.second
    second = load_detector(fetch_object(job.store, given)).to(job.processes.device) if given else None
    batch = job.recipe.execution.batch_limit
    kept = _kept(len(shards)) if job.spec.keep else None
    latents = job.recipe.dataset.latents
    decode = decoder_of(latents, job.processes.device) if latents and dataset.record == "latents" else None
    metrics = (KEEP_FEATURES,) if job.spec.keep else ()
    empty = partial(Sums, job.spec.features, len(shards), metrics, job.spec.second_features if second else None)
    report = ImageCount(job, len(shards))

    def sums_of(piece: Piece) -> Sums:
        sums = empty()
        for start in range(piece.start, piece.stop, batch):
            rows = torch.arange(start, min(start + batch, piece.stop))
            images = shards.read(rows)[0].to(job.processes.device)
            if decode is not None:  # what the VAE gives back of each image
                images = decode(network_input(images, dataset))
            with torch.no_grad():
                sums.add(detector, images, start, second)
            report.made(len(rows))
        if kept is not None and sums.features:
            sums.features = [torch.cat(sums.features)[kept[piece.start : piece.stop]]]
        return sums

    work = pieces(1, len(shards))
    gather(job, work, sums_of, report.found)
    if not job.processes.first:
        return None
    tensors = next(
        merged(job, work, empty)
    ).state()  # in the order of the pieces: the same bits on any number of processes
    real, images = tensors.pop("features", None), job.spec.images
    others = {name: tensors.pop(SECOND + name) for name in MOMENTS if second}
    outcome = ReferenceOutcome(
        moments=put_tensors(job.put, tensors, "reference.safetensors"),
        second_moments=put_tensors(job.put, others, "second-reference.safetensors") if others else None,
        real_features=None if real is None else put_tensors(job.put, {"features": real}, "real-features.safetensors"),
        precision_recall_features=None if images is None else _published(job, images, detector),
    )
    discard(job, work)
    return outcome


def _published(job: Job[ReferenceSpec], images: ObjectRef, detector: Detector) -> ObjectRef:
    """Return features of published reference images."""
    channels, resolution = job.recipe.dataset.picture
    path = fetch_object(job.store, images)
    pixels = torch.from_numpy(read_reference_images(path, resolution, channels, images.name))
    device, batch = job.processes.device, job.recipe.execution.batch_limit
    with torch.no_grad():
        features = [detector(part.to(device)).to("cpu", torch.float32) for part in pixels.split(batch)]
    return put_tensors(job.put, {"features": torch.cat(features)}, "reference-images.safetensors")


def _kept(count: int) -> Tensor:
    """Return bool [count]: all images, or a seeded choice of REAL_IMAGES of them."""
    kept = torch.ones(count, dtype=torch.bool)
    if count > REAL_IMAGES:
        kept[Draws(0).permutation("real images", count)[REAL_IMAGES:]] = False
    return kept
