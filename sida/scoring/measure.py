"""Measuring a model: the worker's side of the steps score_teacher and score."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from sida.manifests import DatasetResult, GeneratorResult, ReferenceResult, TeacherResult
from sida.numerics.frechet import frechet_distance
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.samplers import heun_edm, one_step
from sida.progress import Progress
from sida.recipe import Sampler
from sida.scoring.detector import load_detector
from sida.scoring.protocol import MakeImages, churn_noise, range_moments, sampling_noise
from sida.scoring.reference import load_moments
from sida.stores.base import fetch_object
from sida.teachers.files import load_network
from sida.training.job import Job


def teacher_images(teacher: Denoiser, sampler: Sampler) -> MakeImages:
    """The teacher under its own sampler; the noise of a stochastic one belongs to the image's seed too."""
    shape = (teacher.img_channels, teacher.img_resolution, teacher.img_resolution)

    def make(seeds: Tensor, labels: Tensor) -> Tensor:
        return heun_edm(
            teacher,
            sampling_noise(seeds, shape),
            labels,
            steps=sampler.steps,
            S_churn=sampler.s_churn,
            S_min=sampler.s_min,
            S_max=math.inf if sampler.s_max is None else sampler.s_max,
            S_noise=sampler.s_noise,
            noise=churn_noise(seeds, shape) if sampler.s_churn else None,
        )

    return make


def generator_images(generator: Denoiser, sigma_init: float) -> MakeImages:
    """The one-step generator."""
    shape = (generator.img_channels, generator.img_resolution, generator.img_resolution)
    return lambda seeds, labels: one_step(generator, sampling_noise(seeds, shape), labels, sigma_init)


def measure(job: Job) -> dict[str, Any]:
    """Score the job's model over its seed ranges: ``values`` in order, and how fast the images were made."""
    reference: ReferenceResult = job.manifest("reference").result  # type: ignore[assignment]
    dataset: DatasetResult = job.manifest("dataset").result  # type: ignore[assignment]
    make = _model(job)
    detector = load_detector(fetch_object(job.store, reference.detector)).to(job.processes.device)
    real = load_moments(job.store, reference)
    ranges, count = job.spec["first_seeds"], job.spec["count"]
    progress = Progress(job.step, len(ranges) * count, "images") if job.processes.first else None
    done = 0

    def report(images: int) -> None:
        nonlocal done
        done += images * job.processes.world
        if progress:
            progress.update(min(done, len(ranges) * count))

    started = time.time()
    values = []
    for first_seed in ranges:
        moments = range_moments(
            make,
            detector,
            histogram=dataset.histogram,
            first_seed=first_seed,
            count=count,
            features=reference.features,
            batch=job.recipe.execution.sampling_batch,
            processes=job.processes,
            report=report,
        )
        values.append(frechet_distance(*moments.mean_cov(), *real.mean_cov()))
    return {"values": values, "images_per_second": len(ranges) * count / (time.time() - started)}


def _model(job: Job) -> MakeImages:
    manifest = job.manifest("model").result
    if isinstance(manifest, TeacherResult):
        network = load_network(fetch_object(job.store, manifest.weights), manifest.network)
        return teacher_images(_frozen(network, job), job.recipe.teacher.sampler)
    assert isinstance(manifest, GeneratorResult)
    network = load_network(fetch_object(job.store, manifest.weights), manifest.network)
    return generator_images(_frozen(network, job), manifest.sigma_init)


def _frozen(network: Denoiser, job: Job) -> Denoiser:
    return network.to(job.processes.device).eval().requires_grad_(False)


def real_resamples(features: Tensor, labels: Tensor, wanted: Tensor, first_seed: int) -> Tensor:
    """Real images drawn with replacement, class by class: the floor that a perfect generator would reach at this n.

    features [N, F] and labels int64 [N] of the data set, wanted int64 [n] classes -> features [n, F].
    """
    from sida.numerics.draws import Draws

    chosen = torch.empty_like(wanted)
    picks = Draws(first_seed).uniform("real resamples", torch.arange(len(wanted)), (), torch.float64)
    for label in torch.unique(wanted).tolist():
        members = torch.nonzero(labels == label).flatten()
        here = wanted == label
        chosen[here] = members[(picks[here] * len(members)).to(torch.int64)]
    return features[chosen]
