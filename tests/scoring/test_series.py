"""The last score of a recipe, and whether a new one is worse by more than chance."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest

from sida import recipe as recipes
from sida.manifests import About, Manifest, Score, ScoresResult
from sida.scoring import words
from sida.scoring.gates import judge
from sida.scoring.interval import half_width
from sida.scoring.series import previous, remember
from sida.settings import settings
from sida.stores import ObjectStore, open_store

RECIPE = recipes.load("digits")


def scores(
    created: str, *values: float, key: str = "a", n: int = 100, detector: str = "d", maker: str = ""
) -> Manifest:
    row = Score(
        model="generator",
        label="generator",
        nfe=1,
        metric="fd_digits",
        values=values,
        first_seeds=tuple(range(len(values))),
        n=n,
        mean=fmean(values),
        sd=stdev(values) if len(values) > 1 else 0.0,
        sampler="one step",
        checkpoint_sha256=None,
    )
    result = ScoresResult(rows=(row,), detector_sha256=detector, reference_digest="r", licence="none")
    about = {
        "step": "score",
        "key": key * 64,
        "attempt": 1,
        "created": f"2026-11-{created}T03:00:00+00:00",
        "seconds": 1.0,
    }
    keys = {"model": f"steps/{maker}/{'e' * 64}/1.json"} if maker else {}
    more = {"input_keys": keys, "store": "", "etags": {}, "code": "", "inputs": {}, "parameters": {}, "machine": {}}
    manifest = Manifest(result=result, about=About(**about, **more))  # type: ignore[arg-type]
    return manifest.model_copy(update={"checksum": manifest.expected_checksum()})


def publish(store: ObjectStore, manifest: Manifest) -> Manifest:
    about = manifest.about
    store.put(f"steps/score/{about.key}/{about.attempt}.json", manifest.to_json())
    remember(store, RECIPE, manifest)
    remember(store, RECIPE, manifest)  # twice is once
    return manifest


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def test_the_previous_score_is_the_last_one_before_of_another_key(store: ObjectStore) -> None:
    first = publish(store, scores("01", 1.0, 1.1, key="a"))
    second = publish(store, scores("08", 1.2, 1.3, key="b"))
    third = publish(store, scores("15", 1.4, 1.5, key="c"))
    assert previous(store, RECIPE, first) is None
    assert previous(store, RECIPE, second) == first
    assert previous(store, RECIPE, third) == second


def test_scores_that_cannot_be_compared_and_those_that_are_gone_are_passed_over(store: ObjectStore) -> None:
    first = publish(store, scores("01", 1.0, 1.1, key="a"))
    publish(store, scores("02", 1.0, 1.1, key="b", n=5))
    publish(store, scores("03", 1.0, 1.1, key="c", detector="other"))
    gone = publish(store, scores("04", 1.0, 1.1, key="e"))
    store.delete(f"steps/score/{gone.about.key}/1.json")
    assert previous(store, RECIPE, scores("05", 1.0, 1.1, key="f")) == first


def test_a_file_that_was_scored_with_the_recipe_is_not_its_last_score(store: ObjectStore) -> None:
    """A run was told that it REGRESSED against whatever generator somebody had scored with its recipe."""
    first = publish(store, scores("01", 1.0, 1.1, key="a", maker="distill"))
    file = publish(store, scores("02", 0.1, 0.2, key="b", maker="fetch_released"))
    assert previous(store, RECIPE, scores("03", 1.0, 1.1, key="c", maker="distill")) == first
    assert previous(store, RECIPE, scores("03", 1.0, 1.1, key="c", maker="fetch_released")) == file
    older = publish(store, scores("04", 1.0, 1.1, key="d"))  # which does not say
    assert previous(store, RECIPE, scores("05", 1.0, 1.1, key="c", maker="distill")) == older


def test_a_recipe_that_differs_in_a_number_has_a_series_of_its_own_and_one_laid_out_otherwise_has_not(
    store: ObjectStore,
) -> None:
    first = publish(store, scores("01", 1.0, 1.1))
    now = scores("02", 1.0, 1.1, key="b")
    laid_out = RECIPE.model_copy(update={"execution": RECIPE.execution.model_copy(update={"processes": 7})})
    another = RECIPE.model_copy(update={"method": RECIPE.method.model_copy(update={"alpha": 0.5})})
    assert previous(store, laid_out, now) == first
    assert previous(store, another, now) is None


@pytest.mark.parametrize(
    ("values", "regressed", "said"),
    [
        ((2.0, 2.01, 1.99), True, "REGRESSED: worse than the last score of this recipe by 1.000"),
        ((1.005, 1.015, 0.995), False, "No regression"),
        ((0.5, 0.51, 0.49), False, "differs by -0.500"),
    ],
)
def test_a_regression_is_worse_by_more_than_the_interval(values: tuple[float, ...], regressed: bool, said: str) -> None:
    last = scores("01", 1.0, 1.01, 0.99)
    found = judge(scores("08", *values).rows, last)
    assert found.regressed is regressed
    assert said in words.regression(found)
    assert "(95%): fd_" in words.regression(found) and "+-" not in words.regression(found)
    assert found.previous == last.digest
    assert (found.before, found.now) == (pytest.approx(1.0), pytest.approx(fmean(values)))
    # Student's t with two degrees of freedom, sd 0.01 over three ranges
    assert found.before_half_width == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-6)
    assert half_width(last.rows[0].values) == found.before_half_width


def test_a_single_seed_range_tells_nothing(store: ObjectStore) -> None:
    found = judge(scores("08", 9.0).rows, scores("01", 1.0))
    assert (found.regressed, found.half_width) == (False, None)
    assert "cannot be told" in words.regression(found)


def test_where_more_is_better_less_is_worse() -> None:
    def as_precision(manifest: Manifest) -> Manifest:
        rows = tuple(row.model_copy(update={"metric": "precision"}) for row in manifest.rows)
        return manifest.model_copy(update={"result": manifest.result.model_copy(update={"rows": rows})})

    last, now = as_precision(scores("01", 0.8, 0.81, 0.79)), as_precision(scores("08", 0.5, 0.51, 0.49))
    assert judge(now.rows, last).regressed
    assert not judge(last.rows, now).regressed
