"""Measuring a model: the worker's side of the steps score_teacher and score.

One pass over the images gathers what every metric needs (``sums.py``); a killed job goes on piece by piece (``partial.py``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sida import devices
from sida.data.latents import decoder_of
from sida.data.shards import Shards
from sida.errors import UserError
from sida.launch.spec import ScoreOutcome, ScoreSpec
from sida.manifests import DatasetResult, GeneratorResult, Part, ReferenceResult, TeacherResult
from sida.numerics.draws import Draws
from sida.numerics.frechet import Moments, frechet_distance, sampling_bias
from sida.numerics.kid import kernel_distance, kid_subsets
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.precision_recall import NEIGHBORS, precision_recall
from sida.numerics.samplers import each_step, heun, last_step
from sida.numerics.schedules import step_sigmas
from sida.recipe import Recipe, Sampler
from sida.scoring.batch import job_batch
from sida.scoring.detector import load_detector
from sida.scoring.partial import ImageCount, Piece, discard, gather, merged, pieces
from sida.scoring.protocol import MakeImages, churn_noise, piece_sums, range_labels, refuse_constant, sampling_noise
from sida.scoring.reference import load_features, load_statistics
from sida.scoring.sums import StepSums, Sums
from sida.stores import ObjectStore
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object
from sida.teachers.files import load_network
from sida.worker.job import Job


def teacher_images(teacher: Denoiser, sampler: Sampler, guide: Denoiser | None = None) -> MakeImages:
    """Return a maker of the teacher's images under its own sampler; the noise of a stochastic one belongs to the image's seed too.

    With guidance each evaluation asks ``guide`` too. Raises UserError for guidance without one, or with EDM's float64 sampler.
    """
    shape = (teacher.img_channels, teacher.img_resolution, teacher.img_resolution)
    guided = sampler.guidance != 1
    if guided and (sampler.state == "float64" or guide is None):
        raise UserError(
            f"teacher.sampler.guidance {sampler.guidance:g}: guidance belongs to EDM2's sampler (teacher.sampler.state: "
            f"float32) and needs teacher.guide"
        )
    reference = _of_width(guide, teacher) if guided and guide is not None else None

    def make(seeds: Tensor, labels: Tensor) -> Tensor:
        with devices.products(teacher.precision):
            return heun(
                teacher,
                sampling_noise(seeds, shape),
                labels,
                steps=sampler.steps,
                guide=reference,
                guidance=sampler.guidance,
                S_churn=sampler.s_churn,
                S_min=sampler.s_min,
                S_max=math.inf if sampler.s_max is None else sampler.s_max,
                S_noise=sampler.s_noise,
                noise=churn_noise(seeds, shape) if sampler.s_churn else None,
                dtype=getattr(torch, sampler.state),
            )

    return make


def _of_width(guide: Denoiser, teacher: Denoiser) -> Callable[..., Tensor]:
    """Return the guide under the teacher's labels: an unconditional one is not told the class, as EDM2's is not."""
    if guide.label_dim == teacher.label_dim:
        return guide
    if guide.label_dim:
        raise UserError(
            f"teacher.guide knows {guide.label_dim} classes, the teacher {teacher.label_dim}: take an unconditional one, or "
            f"one of the same classes"
        )
    return lambda x, sigma, labels=None: guide(x, sigma, None)


def generator_images(generator: Denoiser, sigma_init: float, steps: int = 1) -> MakeImages:
    """Return a maker of the generator's images, those after its last step."""
    return _of_generator(generator, sigma_init, steps, last_step)


def images_of_each_step(generator: Denoiser, sigma_init: float, steps: int) -> MakeImages:
    """Return a maker of the images after each of the generator's steps, [B, steps, C, H, W]; those on the way are free."""
    return _of_generator(generator, sigma_init, steps, lambda *given: torch.stack([*each_step(*given)], dim=1))


def _of_generator(generator: Denoiser, sigma_init: float, steps: int, sampler: Callable[..., Tensor]) -> MakeImages:
    shape = (generator.img_channels, generator.img_resolution, generator.img_resolution)
    sigmas = step_sigmas(sigma_init, steps)

    def make(seeds: Tensor, labels: Tensor) -> Tensor:
        with devices.products(generator.precision):
            return sampler(generator, partial(sampling_noise, seeds, shape), labels, sigmas)

    return make


def measure(job: Job[ScoreSpec]) -> ScoreOutcome | None:
    """Score the job's model over its seed ranges; the first process returns the scores."""
    reference = job.manifest(job.spec.reference, ReferenceResult).result
    dataset = job.manifest(job.spec.dataset, DatasetResult).result
    make, classes, steps = _model(job)
    if len(dataset.histogram) != classes:
        raise UserError(
            f"labels out of range: the model knows {classes} classes, the data set {len(dataset.histogram)}: they do not "
            f"belong together"
        )
    device, other = job.processes.device, reference.second
    detector = load_detector(fetch_object(job.store, reference.detector)).to(device)
    second = load_detector(fetch_object(job.store, other.detector)).to(device) if other else None
    ranges, count = job.spec.first_seeds, job.spec.count
    extra = job.spec.extra_metrics
    detectors = [detector] if second is None else [detector, second]
    batch = job_batch(job, make if steps == 1 else lambda seeds, c: make(seeds, c)[:, -1], detectors, classes)
    labels = [range_labels(dataset.histogram, count, first_seed) for first_seed in ranges]
    work = pieces(len(ranges), count)
    report = ImageCount(job, len(ranges) * count)
    gathered = (reference.features, count, extra, other.features if other else None)

    def empty() -> Sums:
        return Sums(*gathered) if steps == 1 else StepSums(steps, *gathered)

    def sums_of(piece: Piece) -> Sums:
        return piece_sums(
            make,
            detector,
            labels=labels[piece.group],
            classes=classes,
            first_seed=ranges[piece.group],
            piece=piece,
            sums=empty(),
            batch=batch,
            device=device,
            second=second,
            report=report.made,
        )

    gather(job, work, sums_of, report.found)
    if not job.processes.first:
        return None
    rate, real = report.rate(), load_statistics(job.store, reference)
    earlier: list[list[float]] = []  # by range, then by step

    def ranges_of_last_step() -> Iterator[Sums]:
        for sums in merged(job, work, empty):
            if isinstance(sums, StepSums):
                earlier.append([_distance(moments, "the model", real) for moments in sums.earlier])
            yield sums

    distances = evaluate(ranges_of_last_step(), "the model", real, job.store, reference, device)
    with_floor = job.spec.floor and reference.real_features is not None
    outcome = ScoreOutcome(
        **distances,
        by_steps=tuple(zip(*earlier, strict=True)),
        floor=_floor(job, reference, dataset, real) if with_floor else (),
        sampling_bias=sampling_bias(real[1], count),
        images_per_second=rate,
        batch=batch,
    )
    discard(job, work)
    return outcome


def evaluate(
    ranges: Iterable[Sums],
    maker: str,
    real: tuple[Tensor, Tensor],
    store: ObjectStore,
    reference: ReferenceResult,
    device: torch.device,
) -> dict[str, Any]:
    """Return fields of a ScoreOutcome from the sums of each seed range: distances to ``real``, and what else was asked for."""
    values, further, second = [], defaultdict[str, list[float]](list), []
    other = load_statistics(store, reference.second) if reference.second else None
    for sums in ranges:
        count = sums.count
        values.append(_distance(sums.moments, maker, real))
        if sums.second is not None and other is not None:
            second.append(_distance(sums.second.moments, maker, other))
        for name, value in _further_metrics(sums, store, device, reference).items():
            further[name].append(value)
    found = {"values": tuple(values), "further": {name: tuple(numbers) for name, numbers in further.items()}}
    return found | ({"second": tuple(second), "second_bias": sampling_bias(other[1], count)} if other else {})


def _distance(moments: Moments, maker: str, real: tuple[Tensor, Tensor]) -> float:
    refuse_constant(moments, maker)
    mean, covariance = moments.mean_cov()
    return frechet_distance(mean.cpu(), covariance.cpu(), *real)


def _further_metrics(
    sums: Sums, store: ObjectStore, device: torch.device, reference: ReferenceResult
) -> dict[str, float]:
    """Return ``is``, ``kid``, ``precision`` and ``recall`` of one range, those that were asked for."""
    values: dict[str, float] = {}
    extra = sums.metrics
    if "is" in extra and sums.splits is not None:
        values["is"] = sums.splits.score()[0]
    if not {"kid", "precision_recall"} & set(extra):
        return values
    generated = torch.cat(sums.features)
    if "kid" in extra:
        real = load_features(store, reference)
        _refuse_few("kid", 2, real, generated)
        values["kid"] = kernel_distance(real, generated, kid_subsets(len(real), len(generated)))
    if "precision_recall" in extra:
        real = load_features(store, reference, precision_recall=True)
        _refuse_few("precision_recall", NEIGHBORS + 1, real, generated)
        values["precision"], values["recall"] = precision_recall(real.to(device), generated.to(device))
    return values


def _refuse_few(metric: str, least: int, real: Tensor, generated: Tensor) -> None:
    """Raise UserError for fewer images than a metric is defined for."""
    if min(len(real), len(generated)) < least:
        raise UserError(
            f"{metric} takes {least} images or more on either side, not {len(generated):,} against {len(real):,} of the "
            f"reference: raise evaluation.images, or leave it out of evaluation.extra_metrics"
        )


def _floor(
    job: Job[ScoreSpec], reference: ReferenceResult, dataset: DatasetResult, real: tuple[Tensor, Tensor]
) -> tuple[float, ...]:
    """Return the scores of real images drawn anew: what a perfect generator would get at this n."""
    features = load_features(job.store, reference)
    shards = Shards(job.store, dataset)
    if len(features) != len(shards):
        return ()  # a sample of the training set does not know its members' labels
    labels = shards.labels() if dataset.classes else torch.zeros(len(shards), dtype=torch.int64)  # stored as -1
    values = []
    for first_seed in job.spec.first_seeds:
        classes = range_labels(dataset.histogram, job.spec.count, first_seed)
        moments = Moments(reference.features)
        for part in real_resamples(features, labels, classes, first_seed).split(4096):
            moments.add(part)
        values.append(frechet_distance(*moments.mean_cov(), *real))
    return tuple(values)


def decoded(make: MakeImages, decode: Callable[[Tensor], Tensor] | None) -> MakeImages:
    """Return a maker of images uint8 from a model of EDM2's latents, decoded by the VAE; ``make`` itself without one.

    Those of several steps are decoded one after the other.
    """
    if decode is None:
        return make

    def images(seeds: Tensor, labels: Tensor) -> Tensor:
        latents = make(seeds, labels)
        if not bool(latents.isfinite().all()):
            raise UserError(
                f"the model's latents of seeds {int(seeds[0])} to {int(seeds[-1])} are not finite: its weights or its precision "
                f"are at fault"
            )
        return (
            decode(latents) if latents.ndim == 4 else torch.stack([decode(step) for step in latents.unbind(1)], dim=1)
        )

    return images


def _model(job: Job[ScoreSpec]) -> tuple[MakeImages, int, int]:
    """Return a maker of the model's images, the number of classes the network knows (0: unconditional), and a generator's steps.

    The images of several steps are those of each.
    """
    model = job.manifest(job.spec.model, Part).result
    assert isinstance(model, TeacherResult | GeneratorResult)
    network = network_to_score(job.store, job.recipe, model.weights, model.network, job.processes.device)
    classes = int(model.network.get("label_dim", 0))
    steps = model.steps if isinstance(model, GeneratorResult) else 1
    if isinstance(model, TeacherResult):
        guide = guide_of(job.store, job.recipe, job.spec.guide, job.processes.device)
        make = teacher_images(network, job.recipe.teacher.sampler, guide)
    elif steps == 1:
        make = generator_images(network, model.sigma_init)
    else:
        make = images_of_each_step(network, model.sigma_init, steps)
    latents = job.recipe.dataset.latents
    return (make if latents is None else decoded(make, decoder_of(latents, job.processes.device))), classes, steps


def guide_of(store: ObjectStore, recipe: Recipe, stored: ObjectRef | None, device: torch.device) -> Denoiser | None:
    """Return the network that the teacher is guided away from, as score_teacher stored it; None for a teacher without guidance."""
    if stored is None or recipe.teacher.guide is None:
        return None
    return network_to_score(store, recipe, stored, recipe.teacher.guide.network.model_dump(mode="json"), device)


def network_to_score(
    store: ObjectStore, recipe: Recipe, weights: ObjectRef, network: dict[str, Any], device: torch.device
) -> Denoiser:
    """Return the stored network on the device, frozen, in the precision that scores are measured in."""
    model = load_network(fetch_object(store, weights), network)
    model.compute_in(recipe.score_precision)
    return model.to(device).eval().requires_grad_(False)


def real_resamples(features: Tensor, labels: Tensor, classes: Tensor, first_seed: int) -> Tensor:
    """Draw real images with replacement, class by class: the floor that a perfect generator would reach at this n.

    features [N, F] and labels int64 [N] of the data set, classes int64 [n] classes -> features [n, F].
    """
    chosen = torch.empty_like(classes)
    picks = Draws(first_seed).uniform("real resamples", torch.arange(len(classes)), (), torch.float64)
    for label in torch.unique(classes).tolist():
        members = torch.nonzero(labels == label).flatten()
        of_class = classes == label
        chosen[of_class] = members[(picks[of_class] * len(members)).to(torch.int64)]
    return features[chosen]
