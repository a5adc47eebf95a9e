"""No number without its name: what it is of how many images, by which labels, a mean or a best one, a proxy or a score."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.views import VIEWS
from pipeline.output import aligned
from sida.launch import annotations
from sida.manifests import Manifest, Score
from sida.report.compare import markdown, table
from sida.report.page import page_of
from sida.scoring.words import label_of, measured_text
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.tracking.projection import projection
from tests.report.test_page import Elements, inputs_of
from tests.tracking.runs import CURVE, Made, recipe, score

LABELS = "exact proportions of the training set, uniform: 10 classes of 20 images"
NOISE = "turned to noise at 1,536 images: selection score 128"


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def best(*values: float) -> Score:
    label = f"generator, SiDA, best of {len(values)} ranges"
    return score("generator", *values).model_copy(update={"protocol": "best", "label": label})


def made_by_best(store: ObjectStore) -> Made:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    made.rows = (made.rows[0], best(0.6, 0.61, 0.59), made.rows[2])
    return made


def noted(manifest: Manifest[Any], **notes: str) -> Manifest[Any]:
    return manifest.model_copy(update={"about": manifest.about.model_copy(update={"notes": notes})})


def test_the_lowest_range_is_named_and_so_is_the_mean_beside_it(store: ObjectStore) -> None:
    assert measured_text(best(0.6, 0.61, 0.59)) == "best of 3: 0.590; mean 0.600 +- 0.010"
    assert measured_text(score("generator", 0.6, 0.61, 0.59)) == "0.600 +- 0.010"
    one = score("generator", 0.6, 0.6).model_copy(update={"values": (0.6,), "first_seeds": (1,)})
    assert measured_text(one) == "0.600"  # a single range has no spread
    further = best(0.6, 0.61, 0.59).model_copy(update={"metric": "kid_digits", "protocol": "mean"})
    assert (label_of(further), label_of(best(0.6, 0.61))) == ("generator, SiDA", "generator, SiDA, best of 2 ranges")
    cells = table(made_by_best(store).manifests()["compare"])
    assert [row[2] for row in cells[1:]] == [
        "1.000 +- 0.020",
        "best of 3: 0.590; mean 0.600 +- 0.010",
        "0.500 +- 0.010",
    ]
    assert cells[0][2] == "fd_digits (mean +- sd over 3 held-out seed ranges, n = 200)"
    assert "best of 3: 0.590; mean 0.600" in "\n".join(aligned(cells))


def test_kubeflow_and_mlflow_name_the_number_of_images_the_best_range_and_proxies(store: ObjectStore) -> None:
    made = made_by_best(store)
    logged: dict[str, float] = {}
    output = SimpleNamespace(log_metric=lambda name, value: logged.update({name: value}))
    VIEWS["score"].show(made.manifests()["score"], {"scores": output})
    assert logged == {"generator_fd_digits_n200": pytest.approx(0.6), "generator_fd_digits_n200_best_of_3": 0.59}
    made.write("run-1")
    told = projection(store, "run-1")
    names = {name for node in (told.parent, *told.children) for name, _, _ in node.metrics}
    assert {
        "selection_fd_digits_n5000",
        "fd_digits_n200_of_range",
        "fd_digits_n200_best_of_3",
        "fd_digits_n200",
    } <= names
    assert {"fd_digits_n200_generator", "fd_digits_n200_teacher", "fd_digits_n200_real"} <= names
    bare = {"fd_digits", "selection_fd_digits", "fd_digits_generator", "fd_digits_of_range", "fd_digits_sd"}
    assert not names & bare


def test_another_number_of_images_stands_at_its_row(store: ObjectStore) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    made.rows = (score("teacher", 1.0, 1.02, 0.98, n=50), *made.rows[1:])
    cells = [row[2] for row in table(made.manifests()["compare"])]
    assert cells[0].endswith("n = 50)") and cells[2] == "0.600 +- 0.010 (n = 200)"


def test_the_rule_of_labels_and_noise_stand_under_the_table_and_on_the_page(store: ObjectStore) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    inputs: dict[str, Any] = inputs_of(made)
    plain = page_of(made.recipe, inputs, store, CURVE)
    assert "Labels:" not in plain and "turned to noise" not in plain  # of results that older versions made
    inputs["run"] = noted(inputs["run"], labels=LABELS, noise=NOISE)
    inputs["generator"] = noted(inputs["generator"], noise=NOISE)
    assert f"\nlabels: {LABELS}\n" in markdown(inputs["run"]) and f"the training {NOISE}" in markdown(inputs["run"])
    found = " ".join(" ".join(Elements(page_of(made.recipe, inputs, store, CURVE)).text).split())
    assert f"Labels: {LABELS}." in found
    assert f"turned to noise yes {NOISE}" in found


def test_a_page_says_of_how_many_images_each_of_its_numbers_is(store: ObjectStore) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    found = " ".join(" ".join(Elements(page_of(made.recipe, inputs_of(made), store, CURVE)).text).split())  # type: ignore[arg-type]
    assert "fd_digits over training: selection scores, n = 5,000" in found
    assert "teacher, n = 200: 1" in found and "floor (real images), n = 200: 0.5" in found
    assert "selection score 0.25 (n = 5,000)" in found
    assert "fd_digits, mean ± sd, n = 200" in found


def test_a_trainjob_tells_of_noise_as_long_as_it_lasts() -> None:
    event = {"done": 2048, "total": 6144, "rate": 10.0, "numbers": {"noise_since": 1536.0}}
    job = {"metadata": {"annotations": annotations.of_progress(event)}}
    assert "turned to noise at 1,536 images" in annotations.in_words(job)
    job = {"metadata": {"annotations": annotations.of_progress(event | {"numbers": {}})}}
    assert "noise" not in annotations.in_words(job)
    for hostile in (float("inf"), float("nan")):
        job = {"metadata": {"annotations": annotations.of_progress(event | {"numbers": {"noise_since": hostile}})}}
        assert "noise" not in annotations.in_words(job)
