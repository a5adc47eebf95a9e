"""The table of released generators: the paper's rows, what stands for each, and what could not be scored."""

from __future__ import annotations

import pytest

from sida.manifests import PublishedFailure, PublishedResult, PublishedRow, PublishedSecond
from sida.recipe import load
from sida.scoring.gates import target_of
from sida.scoring.table import lines, paper_rows, released_recipes, verdict


def scored(name: str, ours: float, verdict: str) -> PublishedRow:
    recipe = load(name)
    return PublishedRow(
        benchmark=recipe.benchmark or name,
        recipe=name,
        generator=f"{recipe.method.name} (alpha {recipe.method.alpha:g})",
        metric="fid",
        published=target_of(recipe),
        source="paper",
        ours=ours,
        interval=0.01,
        protocol="mean",
        ranges=3,
        n=50_000,
        verdict=verdict,
        seconds=10,
        images_per_second=15_000,
        checkpoint_sha256="",
    )


def failed(name: str) -> PublishedFailure:
    recipe = load(name)
    return PublishedFailure(
        recipe=name,
        benchmark=recipe.benchmark or name,
        generator=f"{recipe.method.name} (alpha {recipe.method.alpha:g})",
        step="fetch_released",
        message="not found",
        exit_code=2,
    )


def result(rows: list[PublishedRow], failures: list[PublishedFailure]) -> PublishedResult:
    known = {row.recipe: load(row.recipe) for row in [*rows, *failures]}
    paper = paper_rows(rows, failures, known)
    return PublishedResult(rows=tuple(rows), paper=tuple(paper), failed=tuple(failures))


def test_the_paper_has_ten_rows_and_every_default_recipe_stands_in_one() -> None:
    table = result([], [])
    assert len(table.paper) == 10 and {row.verdict for row in table.paper} == {"not scored"}
    assert sorted(name for row in table.paper for name in row.recipes) == sorted(released_recipes())
    assert {(row.line, row.published) for row in table.paper if row.benchmark == "CIFAR-10 32x32 unconditional"} == {
        ("SiD", 1.923),
        ("best of SiDA, SiD2A", 1.499),
    }
    for cells, row in zip(lines(table)[1:], table.paper, strict=True):
        assert cells[-1] == "sida score-published " + " ".join(row.recipes)


def test_the_better_of_two_files_stands_for_the_row_and_both_are_under_it() -> None:
    table = result(
        [scored("cifar10-uncond-sid2a", 1.6, "worse"), scored("cifar10-uncond-sid2a-alpha12", 1.5, "within")], []
    )
    row = next(row for row in table.paper if row.best)
    assert (row.best, row.ours, row.verdict) == ("cifar10-uncond-sid2a-alpha12", 1.5, "within")
    cells = lines(table)
    at = next(number for number, line in enumerate(cells) if line[6] == "within")
    assert cells[at][1] == "best of SiDA, SiD2A: sid2a (alpha 1.2)"
    assert [line[1].strip() for line in cells[at + 1 : at + 3]] == ["sid2a (alpha 1)", "sid2a (alpha 1.2)"]
    assert [line[6] for line in cells[at + 1 : at + 3]] == ["worse", "within"]
    assert (
        verdict(table)
        == "1 of 10 rows scored: 0 better, 1 within, 0 worse\nlabels: exact proportions of the training set"
    )


def test_a_file_that_failed_is_named_and_its_row_keeps_the_command_unless_another_file_stands_for_it() -> None:
    table = result(
        [scored("cifar10-uncond-sid2a", 1.6, "worse")],
        [failed("cifar10-uncond-sid2a-alpha12"), failed("ffhq-64-sid")],
    )
    cells = lines(table)
    at = next(number for number, line in enumerate(cells) if line[6] == "worse")
    assert [line[6] for line in cells[at + 1 : at + 3]] == ["worse", "failed"]
    alone = next(line for line in cells if line[0].startswith("FFHQ") and line[1] == "SiD")
    assert alone[6] == "failed" and alone[7] == "sida score-published ffhq-64-sid"
    assert verdict(table).splitlines()[2:] == [
        "failed: cifar10-uncond-sid2a-alpha12: fetch_released: not found",
        "failed: ffhq-64-sid: fetch_released: not found",
    ]


@pytest.mark.parametrize("name", ["cifar10-uncond", "imagenet-512-edm2-xs-sid2a"])
def test_a_recipe_outside_the_ten_gets_a_row_or_joins_the_one_that_it_could_be(name: str) -> None:
    table = result([scored(name, 1.6, "worse")], [])
    row = next(row for row in table.paper if row.best == name)
    assert len(table.paper) == (10 if name.startswith("cifar") else 11)
    assert name in row.recipes


def test_a_second_metric_stands_under_the_file_that_it_is_of() -> None:
    second = PublishedSecond(metric="fd_dinov2", ours=60.5, interval=None)
    one = scored("cifar10-uncond-sid2a", 1.6, "worse").model_copy(update={"second": second})
    for rows in ([one], [one, scored("cifar10-uncond-sid2a-alpha12", 1.5, "within")]):
        cells = lines(result(rows, []))
        at = next(number for number, line in enumerate(cells) if line[2] == "fd_dinov2")
        assert cells[at][1:8] == (
            "  sid2a (alpha 1)",
            "fd_dinov2",
            "-",
            "60.500 (n = 50,000)",
            "-",
            "nothing published",
            "",
        )
        assert "worse" in cells[at - 1] and sum(line[2] == "fd_dinov2" for line in cells) == 1
    assert "second" not in scored("cifar10-uncond-sid2a", 1.6, "worse").model_dump()
