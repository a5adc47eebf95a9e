"""A distillation that has turned to noise, told from its curve; a healthy one is never called so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sida.scoring.noise import Noise, in_words, noise_in
from tests.scoring.conftest import tiny

BLANK = 91.77  # of the digits' reference

# Selection scores of tests/recipes/tiny.yaml over 6,144 images, every 512, measured here: as it is, and its rates a hundred times.
HEALTHY = [3.785, 2.532, 2.381, 2.793, 2.797, 2.45, 2.25, 2.02, 1.893, 1.978, 2.053, 2.109]
LOUD = [225.561, 245.368, 131.972, 128.803, 115.336, 233.387, 128.168, 118.066, 127.456, 128.225, 126.831, 114.286]


def curve(scores: list[float], every: int = 512) -> list[dict[str, float]]:
    points = [{"images": every * (number + 1), "score": score} for number, score in enumerate(scores)]
    return [point for at in points for point in ({"images": at["images"] - 1, "loss_psi": 0.4}, at)]


def since(scores: list[float], warm_up: int = 256) -> int | None:
    found = noise_in(curve(scores), BLANK, warm_up)
    return None if found is None else found.since


def test_rates_a_hundred_times_too_high_are_noise_at_the_third_selection_and_the_same_run_as_it_is_never() -> None:
    assert since(LOUD) == 3 * 512
    assert noise_in(curve(LOUD), BLANK, 256) == Noise(1536, 114.286, 114.286, 6144, BLANK)
    assert [since(LOUD[:length]) for length in range(4)] == [None, None, None, 1536]
    assert [since(HEALTHY[:length]) for length in range(13)] == [None] * 13


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([20, 5, 2, 3, 6, 10.1], 6),  # three rises, to 5 times the best
        ([20, 5, 2, 3, 6, 9.9], None),  # not so far
        ([20, 5, 2, 30, 20, 12], None),  # it comes back
        ([20, 5, 2, 30, 20, 25], 6),  # it does not
        ([20, 5, 2, 150, 3], None),  # one selection in between
        ([20, 5, 0.05, 0.1, 0.2, 0.4], None),  # good scores, however much better one was
        ([300, 260, 200, 150, 90, 40, 20], None),  # a slow beginning falls
        ([300, 260, 280, 270], 3),
        ([100, 95, math.inf, 96, 97], 3),
        ([2, 2.1, 2.2, 150, 2.3], None),  # one odd selection after two small rises
    ],
)
def test_noise_is_a_rise_to_a_multiple_of_the_best_or_no_way_from_it(scores: list[float], expected: int | None) -> None:
    scores = [score for score in scores if math.isfinite(score)]  # as the history leaves out what is not
    assert since(scores) == (None if expected is None else 512 * min(expected, len(scores)))


def test_the_warm_up_in_which_no_generator_is_trained_is_no_noise() -> None:
    constant = [300.0] * 6
    assert since(constant, warm_up=512 * 6) is None
    assert since([*constant, 250.0, 120.0, 60.0], warm_up=512 * 6) is None
    assert since([*constant, 290.0, 310.0, 305.0], warm_up=512 * 6) == 512 * 9


def test_a_run_that_comes_back_is_out_of_it() -> None:
    lost = [20, 5, 2, 30, 40, 50]
    assert since(lost) == 512 * 6
    assert since([*lost, 9]) is None
    assert since([*lost, 9, 1.5, 1.2]) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_healthy_curve_never_fires(seed: int) -> None:
    """Scores that fall from 60 to 2 with a spread of a third, more than any selection here had; 60 selections."""
    generator = np.random.default_rng(seed)
    falling = 2 + 58 * np.exp(-np.arange(60) / 8)
    scores = (falling * np.exp(generator.normal(0, 0.33, 60))).tolist()
    assert all(since(scores[:length]) is None for length in range(61))


@pytest.mark.parametrize("seed", range(20))
def test_a_collapse_is_seen_within_six_selections_wherever_it_begins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    start = int(generator.integers(5, 30))
    good = (3 * np.exp(generator.normal(0, 0.1, start))).tolist()
    bad = (150 * np.exp(generator.normal(0, 0.1, 12))).tolist()
    found = since(good + bad)
    assert found is not None and start + 2 <= found / 512 <= start + 6


def test_the_words_say_what_was_seen_and_what_to_lower_alpha_first() -> None:
    points = [*curve([20, 5, 2, 30, 20, 25]), {"images": 3072, "gradient_theta": 4824.58, "D_real": 0.9, "D_fake": 0.2}]
    found = noise_in(points, BLANK, 256)
    assert found is not None
    text = in_words(found, tiny(method={"alpha": 1.2, "generator_rate": 0.04}), points)
    assert text.startswith(
        "turned to noise at 3,072 images: selection score fd_digits (n = 100) 25, its best one 2 at 1,536"
    )
    assert "generator's gradient norm 4825, discriminator's lead 0.7" in text
    knobs = ("method.alpha first (it is 1.2", "method.generator_rate (0.04)", "method.fake_score_rate (0.001)")
    order = [text.index(knob) for knob in knobs]
    assert order == sorted(order)
