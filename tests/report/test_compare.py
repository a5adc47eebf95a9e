"""The verdict in words, the table, the sample grid."""

from __future__ import annotations

import io
from statistics import fmean, stdev

import pytest
import torch
from PIL import Image

from sida import recipe
from sida.manifests import Score
from sida.recipe import Expected
from sida.report.grid import GRID_COLUMNS, ImagePanel, draw_panels
from sida.scoring.interval import difference_half_width
from sida.scoring.words import held_out_ranges, verdict

RECIPE = recipe.load("digits")


def score(model: str, *values: float) -> Score:
    return Score(
        model=model,  # type: ignore[arg-type]
        label=model,
        nfe=35,
        metric="fd_digits",
        values=values,
        first_seeds=tuple(range(len(values))),
        n=100,
        mean=fmean(values),
        sd=stdev(values),
        sampler="Heun, 18 steps",
        checkpoint_sha256=None,
    )


def test_the_interval_is_student_t_on_the_pooled_error() -> None:
    # sd 0.1 each, three ranges each: 2.776 (4 degrees of freedom) * sqrt(2 * 0.01 / 3)
    half = difference_half_width((1.0, 1.1, 0.9), (2.0, 2.1, 1.9))
    assert half == pytest.approx(2.776 * (0.02 / 3) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            (0.5, 0.51, 0.49),
            ("surpasses its teacher (Heun, 18 steps, 35 evaluations, without guidance)", "within the recipe's limit"),
        ),
        ((1.0, 1.01, 0.99), ("is level with its teacher", "within")),
        ((1.5, 1.51, 1.49), ("is behind its teacher", "ratio 1.50", "within")),
        ((9.0, 9.01, 8.99), ("is behind its teacher", "outside the recipe's limit of 2 times")),
    ],
)
def test_the_verdict_says_who_is_ahead_and_whether_the_target_is_met(
    values: tuple[float, ...], expected: tuple[str, ...]
) -> None:
    words = verdict(RECIPE, [score("teacher", 1.0, 1.02, 0.98), score("generator", *values)])
    assert all(text in words for text in expected), words


def test_a_grid_shows_every_panel_cell_by_cell() -> None:
    images = torch.zeros(GRID_COLUMNS * 2, 1, 8, 8, dtype=torch.uint8)
    images[3] = 200
    png = draw_panels([ImagePanel("a", images), ImagePanel("b", torch.full((5, 3, 8, 8), 1.0))])
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.getpixel((20 + 3 * 44 + 5, 34 + 5)) == (200, 200, 200)
        assert sheet.getpixel((20 + 2 * 44 + 5, 34 + 5)) == (0, 0, 0)
        width = GRID_COLUMNS * 44 - 4
        assert sheet.getpixel((20 + width + 20 + 5, 34 + 5)) == (255, 255, 255)


def test_the_verdict_says_whether_the_numbers_are_those_that_the_recipe_records() -> None:
    rows = [score("teacher", 1.0, 1.02, 0.98), score("generator", 0.5, 0.52, 0.48)]
    expected = {"teacher": (0.9, 1.1), "generator": (0.4, 0.6), "measured": "here"}
    recorded = RECIPE.model_copy(update={"expected": Expected(**expected)})
    assert "Both as the recipe records." in verdict(recorded, rows)
    other = RECIPE.model_copy(update={"expected": Expected(**expected | {"generator": (0.1, 0.2)})})
    assert "generator 0.500 is outside of 0.1 to 0.2" in verdict(other, rows)


def test_a_table_says_how_many_ranges_each_model_was_scored_over() -> None:
    teacher, real = score("teacher", 1.0, 1.1), score("real", 0.1, 0.2)
    assert held_out_ranges([teacher, score("generator", 0.9, 0.8), real]) == "2 held-out seed ranges"
    said = held_out_ranges([teacher, score("generator", 0.9, 0.8, 0.7), real])
    assert said == "3 held-out seed ranges, the teacher's 2"
