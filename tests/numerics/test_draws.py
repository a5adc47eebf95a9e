"""Counter-based draws."""

from __future__ import annotations

import pytest
import torch

from sida.numerics.draws import Draws, philox


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
