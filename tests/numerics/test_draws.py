"""Counter-based draws."""

from __future__ import annotations

import pytest
import torch

from sida import devices
from sida.numerics.draws import Draws
from sida.numerics.philox import philox

FAR = torch.tensor([0, 3, 2**33 + 5])  # images, also such as need the counter's second word


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        # Known answers of Philox4x32-10, from the kat_vectors of Random123 1.14 (D. E. Shaw Research).
        (0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (0xFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ],
)
def test_philox_gives_the_known_answers(word: int, expected: list[int]) -> None:
    counter = torch.full((1,), word, dtype=torch.int64)
    assert [int(w) for w in philox((counter,) * 4, (word, word))] == expected


def test_a_draw_depends_on_seed_purpose_and_index_alone() -> None:
    draws, indices = Draws(3), torch.arange(10)
    whole = draws.normal("z", indices, (2, 5))
    assert torch.equal(draws.normal("z", indices[[7]], (2, 5))[0], whole[7])
    assert torch.equal(Draws(3).normal("z", indices.flip(0), (2, 5)), whole.flip(0))
    assert not torch.equal(draws.normal("eps", indices, (2, 5)), whole)
    assert not torch.equal(Draws(4).normal("z", indices, (2, 5)), whole)
    assert torch.equal(draws.normal("z", indices, (2, 5), dtype=torch.float64).float(), whole)


def test_words_and_masks_are_those_that_runs_were_made_with() -> None:
    """Written down from the code of 2026-11-28: a change of seed, purpose, index or order would be another run."""
    words = [
        [3738220889, 531503612, 1153114833, 1267813187, 1907943565, 3997145277],
        [1748695508, 3913260867, 3300996532, 1789839357, 603102197, 2088492361],
        [1621009996, 1787400070, 454210674, 2666386303, 1565906543, 1410567099],
    ]
    masks = ["101111111110111110110", "111111110111111111111", "110111011111100111111"]
    draws = Draws(7)
    assert draws.words("A/dropout/x", FAR, 6).tolist() == words
    kept = draws.keep("A/dropout/x", FAR, (3, 7), 0.13)
    assert ["".join("01"[keep] for keep in image) for image in kept.flatten(1).tolist()] == masks


# 1, 7 and 189 masks do not fill a kernel's eight bytes, nor Philox's four words; 2 x 72,000 are computed in several parts on a CPU.
@pytest.mark.parametrize("shape", [(), (7,), (3, 7, 9), (8,), (2, 250, 288)])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.13, 0.25, 0.7, 0.9, 1e-9, 1 - 1e-9])
def test_masks_are_uniform_draws_that_reach_p_to_the_bit(shape: tuple[int, ...], p: float) -> None:
    draws, indices = Draws(3), FAR
    kept = draws.keep("mask", indices, shape, p)
    assert kept.dtype == torch.bool
    assert torch.equal(kept, draws.uniform("mask", indices, shape) >= p)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.13, 0.7, 0.9])  # in float64, 0.13, 0.7 and 0.9 fall between other draws
def test_masks_round_p_as_torch_does_when_it_compares_float32(p: float) -> None:
    every = torch.arange(2**24, dtype=torch.int32).float() * 2.0**-24  # all that uniform can give
    least = int((every < p).sum())
    assert Draws.least_kept(p) == least


@pytest.mark.skipif(devices.kind() == "cpu", reason="there is no GPU")
def test_a_gpu_draws_the_same_bits() -> None:
    draws, there = Draws(3), FAR.to(devices.here())
    for shape in ((), (3, 7, 9), (64, 64, 64)):
        assert torch.equal(draws.keep("mask", there, shape, 0.13).cpu(), draws.keep("mask", FAR, shape, 0.13))
        assert torch.equal(draws.uniform("u", there, shape).cpu(), draws.uniform("u", FAR, shape))


def test_large_indices_are_all_different() -> None:
    indices = torch.tensor([1, 1 + 2**32, 1 + 2**40, 2**62])
    assert len(set(Draws(0).uniform("u", indices, (), torch.float64).tolist())) == 4


def test_normals_and_uniforms_have_their_moments() -> None:
    # 400,000 draws: the standard error of the mean is 0.0016 and of the variance 0.0022; five of each are allowed.
    x = Draws(0).normal("x", torch.arange(100_000), (4,), dtype=torch.float64)
    assert abs(float(x.mean())) < 0.008
    assert abs(float(x.var()) - 1) < 0.011
    assert abs(float((x**4).mean()) - 3) < 0.1
    u = Draws(0).uniform("u", torch.arange(400_000))
    assert 0 <= float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.0025


def test_neighbouring_images_are_not_correlated() -> None:
    x = Draws(0).normal("x", torch.arange(20_000), (3,), dtype=torch.float64)
    correlation = float((x[:-1, 0] * x[1:, 0]).mean())
    assert abs(correlation) < 0.035  # five standard errors


def test_a_permutation_holds_every_item_once() -> None:
    order = Draws(0).permutation("order", 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert not torch.equal(order, Draws(1).permutation("order", 1000))
