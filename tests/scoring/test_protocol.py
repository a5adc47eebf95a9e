"""What a score is made of: labels in exact proportions, the same images however the work is cut."""

from __future__ import annotations

import torch

from sida.numerics.frechet import frechet_distance
from sida.scoring.detector import DigitsDetector
from sida.scoring.measure import real_resamples
from sida.scoring.protocol import range_labels, range_moments, sampling_noise
from sida.worker.ranks import Processes

HISTOGRAM = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def test_labels_are_in_exact_proportions_whatever_the_count() -> None:
    for count in (10, 1000, 4999):
        labels = range_labels(HISTOGRAM, count, first_seed=5)
        counts = torch.bincount(labels, minlength=10)
        exact = torch.tensor(HISTOGRAM) * count / sum(HISTOGRAM)
        assert int(counts.sum()) == count
        assert bool(((counts - exact).abs() < 1).all())
    assert torch.equal(range_labels(HISTOGRAM, 50, 5), range_labels(HISTOGRAM, 50, 5))
    assert range_labels((), 4, 0).tolist() == [0, 0, 0, 0]


def test_a_seed_is_the_same_noise_in_any_batch() -> None:
    whole = sampling_noise(torch.arange(100, 110), (1, 8, 8))
    assert torch.equal(sampling_noise(torch.tensor([107]), (1, 8, 8))[0], whole[7])


def moments(batch: int, world: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(0)
    detector = DigitsDetector().eval()
    total: list[torch.Tensor] | None = None
    for rank in range(world):  # one rank after the other: each adds its share, nothing is exchanged
        processes = Processes(rank, 1 if world == 1 else world, torch.device("cpu"))
        object.__setattr__(processes, "sum_", lambda tensors: None)
        object.__setattr__(processes, "meet", lambda: None)
        part = range_moments(
            lambda seeds, labels: sampling_noise(seeds, (1, 8, 8)).clamp(-1, 1),
            detector,
            histogram=HISTOGRAM,
            first_seed=1000,
            count=230,
            features=64,
            batch=batch,
            processes=processes,
        ).state()
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    assert total is not None
    return total


def test_batch_size_and_number_of_processes_change_moments_by_rounding_alone() -> None:
    # float32 features differ by about 1e-6 between batch sizes (other kernels); the float64 sums over ranks by 1e-12.
    whole = moments(50)
    for other in (moments(50, world=2), moments(50, world=4)):
        for a, b in zip(whole, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)
    for a, b in zip(whole, moments(7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


def test_resampled_reals_keep_their_class_and_come_close_to_the_set_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (500,), generator=generator)
    features = torch.randn(500, 6, generator=generator, dtype=torch.float64) + labels[:, None]
    wanted = range_labels(tuple(torch.bincount(labels, minlength=10).tolist()), 20_000, 0)
    drawn = real_resamples(features, labels, wanted, first_seed=0)
    assert len(drawn) == 20_000
    distance = frechet_distance(drawn.mean(0), torch.cov(drawn.T), features.mean(0), torch.cov(features.T))
    assert 0 <= distance < 0.05
    only = real_resamples(features, labels, torch.full((30,), 3), first_seed=0)
    assert all(bool((features[labels == 3] == row).all(1).any()) for row in only)
