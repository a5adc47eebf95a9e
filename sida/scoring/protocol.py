"""Which images a score is made of: seeds, labels, and the loop from noise to feature moments.

Seed s gives the same image whatever the number of processes and the batch size. Labels are in the training set's exact class
proportions (largest remainders), dealt to the seeds of a range by a fixed permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sida.data.shards import one_hot
from sida.numerics.draws import Draws
from sida.numerics.frechet import Moments
from sida.numerics.quantise import to_uint8
from sida.training.processes import Processes

SAMPLING_SEED = 0  # the seed of all sampling draws; an image's own seed is its index

MakeImages = Callable[[Tensor, Tensor], Tensor]  # seeds int64 [B], one-hot labels [B, classes] -> images in [-1, 1]


def range_labels(histogram: Sequence[int], count: int, first_seed: int) -> Tensor:
    """int64 [count]: class of each seed of a range; class counts as close to the histogram's shares as integers allow."""
    if not histogram:
        return torch.zeros(count, dtype=torch.int64)
    shares = torch.tensor(histogram, dtype=torch.float64) * count / sum(histogram)
    counts = shares.floor().to(torch.int64)
    remainders = torch.argsort(shares - counts, descending=True, stable=True)
    counts[remainders[: count - int(counts.sum())]] += 1
    labels = torch.repeat_interleave(torch.arange(len(histogram)), counts)
    return labels[Draws(SAMPLING_SEED).permutation(f"labels of range {first_seed}", count)]


def sampling_noise(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """The unit noise float32 [N, *shape] from which the images of these seeds are made."""
    return Draws(SAMPLING_SEED).normal("sample", seeds, shape)


def churn_noise(seeds: Tensor, shape: Sequence[int]) -> Callable[[int], Tensor]:
    """The unit noise that a stochastic sampler adds in each of its steps to the images of these seeds."""
    return lambda step: Draws(SAMPLING_SEED).normal(f"churn {step}", seeds, shape, torch.float64)


def range_moments(
    make: MakeImages,
    detector: nn.Module,
    *,
    histogram: Sequence[int],
    first_seed: int,
    count: int,
    features: int,
    batch: int,
    processes: Processes,
    report: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Feature moments of the images of seeds first_seed to first_seed + count - 1, summed over all processes.

    Batches are cut at fixed places of the range, so that float64 sums differ between process counts by rounding alone.
    """
    labels = range_labels(histogram, count, first_seed)
    moments = Moments(features)
    starts = list(range(0, count, batch))
    with torch.no_grad():
        for number in processes.share(len(starts)):
            part = slice(starts[number], min(starts[number] + batch, count))
            seeds = first_seed + torch.arange(part.start, part.stop, device=processes.device)
            c = one_hot(labels[part], len(histogram)).to(processes.device)
            moments.add(detector(to_uint8(make(seeds, c))))
            report(part.stop - part.start)
    processes.sum_(moments.state())
    return moments
