"""A run whose rates are a hundred times too high says that it has turned to noise when it has, and ends there if it shall."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sida.launch.spec import DistillOutcome, parse_curve
from sida.recipe import load
from sida.training.distill_loop import distill
from sida.training.distill_step import distill as distill_step
from tests.conftest import ROOT
from tests.training.digits_job import Bench, bench_in, recipe

LOUD = "method: {images: 512, fake_score_rate: 0.1, generator_rate: 0.04}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("bench")) as made:
        yield made


def ended(made: Bench, changes: str, name: str, events: Path) -> tuple[DistillOutcome, list[dict[str, Any]], list[int]]:
    """The outcome, the events of the job, and where selections were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDA_EVENTS", str(events))
        outcome = distill(made.job(changes, name))
    assert outcome is not None
    told = [json.loads(line) for line in events.read_text().splitlines()]
    points = parse_curve(made.store.read(outcome.curve.key))
    return outcome, told, [int(point["images"]) for point in points if "score" in point]


def test_rates_a_hundred_times_too_high_are_called_noise_when_it_happens_and_a_healthy_run_is_not(
    made: Bench, tmp_path: Path
) -> None:
    outcome, told, selections = ended(made, LOUD, "loud", tmp_path / "events")
    notes = [event["text"] for event in told if event["event"] == "note" and "noise" in event["text"]]
    assert len(notes) == 1
    since = int(notes[0].removeprefix("turned to noise at ").split()[0])
    assert (
        since in selections and 192 <= since < 512
    )  # three selections tell it; where such chaos begins, rounding decides
    assert "Lower method.alpha first (it is 1;" in notes[0]
    shown = [event["numbers"] for event in told if event["event"] == "progress" and "noise_since" in event["numbers"]]
    assert shown and all(numbers["noise_since"] == since for numbers in shown)
    assert selections[-1] == 512  # nothing ends a run that may go on
    assert outcome.noise.startswith(f"turned to noise at {since} images")

    healthy, told, _ = ended(made, "method: {images: 512}\n", "healthy", tmp_path / "other")
    assert healthy.noise == "" and not any("noise" in json.dumps(event) for event in told)


def test_a_run_that_shall_stop_at_noise_ends_there_and_continues_to_the_same_end(made: Bench, tmp_path: Path) -> None:
    changes = LOUD + "evaluation: {stop_at_noise: true}\n"
    outcome, _, selections = ended(made, changes, "stopping", tmp_path / "events")
    assert 192 <= selections[-1] < 512
    assert outcome.noise.startswith(f"turned to noise at {selections[-1]} images")
    again, told, _ = ended(made, changes, "stopping", tmp_path / "again")
    assert again == outcome.model_copy(update={"seconds": again.seconds})
    assert not any(event["event"] == "note" and "noise" in event["text"] for event in told)


def test_recipes_that_do_not_stop_at_noise_have_the_digests_and_parameters_that_they_had(tmp_path: Path) -> None:
    quiet, stopping = load("digits"), recipe(tmp_path, "evaluation: {stop_at_noise: true}\n")
    assert "stop_at_noise" not in quiet.evaluation.model_dump(mode="json")
    assert "stop_at_noise" not in distill_step.asks(quiet)
    assert stopping.evaluation.model_dump(mode="json")["stop_at_noise"] is True
    assert distill_step.asks(stopping)["stop_at_noise"] is True
    assert load(str(ROOT / "tests/recipes/tiny.yaml")).evaluation.stop_at_noise is False
