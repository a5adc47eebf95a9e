"""Images that a score is made of: seeds, labels, and the loop from noise to feature moments.

Seed s gives the same image whatever the number of processes and the batch size. Labels are in the training set's exact class
proportions (largest remainders), dealt to the seeds of a range by a fixed permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sida.data.shards import one_hot
from sida.errors import UserError
from sida.numerics.draws import Draws
from sida.numerics.frechet import Moments
from sida.numerics.quantize import to_uint8
from sida.scoring.detector import Detector
from sida.scoring.label_rule import exact_counts
from sida.scoring.partial import Piece
from sida.scoring.sums import Sums
from sida.worker.ranks import Processes

SAMPLING_SEED = 0  # the seed of all sampling draws; an image's own seed is its index

# seeds int64 [B], one-hot labels [B, classes] -> images in [-1, 1] [B, C, H, W], or those of each step [B, steps, C, H, W]
MakeImages = Callable[[Tensor, Tensor], Tensor]


def range_labels(histogram: Sequence[int], count: int, first_seed: int) -> Tensor:
    """Return int64 [count]: class of each seed of a range; class counts as close to the histogram's shares as integers allow.

    >>> labels = range_labels(histogram=[500, 300, 200], count=10, first_seed=0)
    >>> torch.bincount(labels).tolist()
    [5, 3, 2]
    """
    if not histogram:
        return torch.zeros(count, dtype=torch.int64)
    counts = torch.tensor(exact_counts(histogram, count))
    labels = torch.repeat_interleave(torch.arange(len(histogram)), counts)
    return labels[Draws(SAMPLING_SEED).permutation(f"labels of range {first_seed}", count)]


def sampling_noise(seeds: Tensor, shape: Sequence[int], step: int = 1) -> Tensor:
    """Return the unit noise float32 [N, *shape] from which the images of these seeds are made, or that a later step adds."""
    return Draws(SAMPLING_SEED).normal("sample" if step == 1 else f"sample {step}", seeds, shape)


def churn_noise(seeds: Tensor, shape: Sequence[int]) -> Callable[[int], Tensor]:
    """Return the unit noise that a stochastic sampler adds in each of its steps to the images of these seeds."""
    return lambda step: Draws(SAMPLING_SEED).normal(f"churn {step}", seeds, shape, torch.float64)


def pixels_of(images: Tensor, first_seed: int) -> Tensor:
    """Turn images in [-1, 1] into uint8 by EDM's rule; decoded latents are uint8 already.

    Raises UserError naming a seed whose image is not finite.
    """
    if images.dtype == torch.uint8:
        return images
    bad = ~images.flatten(1).isfinite().all(dim=1)
    if bool(bad.any()):
        seed = first_seed + int(torch.nonzero(bad)[0])
        raise UserError(
            f"the model's image of seed {seed} is not finite ({int(bad.sum())} of {len(images)} in this batch): its weights or "
            f"its precision are at fault; nothing was scored"
        )
    return to_uint8(images)


def piece_sums(
    make: MakeImages,
    detector: Detector,
    *,
    labels: Tensor,
    classes: int,
    first_seed: int,
    piece: Piece,
    sums: Sums,
    batch: int,
    device: torch.device,
    second: Detector | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Sums:
    """Add to ``sums`` the images number piece.start to piece.stop of the range that begins with ``first_seed``.

    ``labels`` int64 [count] are the whole range's. A batch that does not fit into the GPU's memory is halved, for good.
    """
    start = piece.start
    with torch.no_grad():
        while start < piece.stop:
            stop = min(start + batch, piece.stop)
            seeds = first_seed + torch.arange(start, stop, device=device)
            c = one_hot(labels[start:stop], classes).to(device)
            try:
                pixels = pixels_of(make(seeds, c), first_seed + start)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = (batch + 1) // 2
                continue
            sums.add(detector, pixels, start, second)
            report(stop - start)
            start = stop
    return sums


def refuse_constant(moments: Moments, what: str) -> None:
    """Raise UserError when all images gave the same features: such a model has collapsed, or never drew anything."""
    _, covariance = moments.mean_cov()
    scale = float(moments.outer.diagonal().sum()) / max(1, int(moments.count))
    if float(covariance.trace()) <= 1e-12 * max(scale, 1e-300):
        raise UserError(f"{what}: all {int(moments.count):,} images look the same to the detector: nothing was scored")


def range_moments(
    make: MakeImages,
    detector: Detector,
    *,
    histogram: Sequence[int],
    first_seed: int,
    count: int,
    features: int,
    batch: int,
    processes: Processes,
    report: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Return feature moments of the images of seeds first_seed to first_seed + count - 1, summed over all processes.

    Batches are cut at fixed places of the range, so that float64 sums differ between process counts by rounding alone.
    """
    labels = range_labels(histogram, count, first_seed)
    sums = Sums(features, count)
    work = [Piece(0, start, min(start + batch, count)) for start in range(0, count, batch)]
    for number in processes.share(len(work)):
        piece_sums(
            make,
            detector,
            labels=labels,
            classes=len(histogram),
            first_seed=first_seed,
            piece=work[number],
            sums=sums,
            batch=batch,
            device=processes.device,
            report=report,
        )
    moments = Moments.from_state([t.to(processes.device) for t in sums.moments.state()])
    processes.meet()  # some have made a batch more
    processes.sum_(moments.state())
    return moments
