"""The page about a run: whole, small, escaped, and quiet in a browser at phone and desktop width."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sida.data.layout import record_dtype
from sida.data.picture import draw_picture
from sida.data.shards import Shards
from sida.manifests import Excluded, Shard
from sida.report.charts import Chart, svg
from sida.report.page import page_of
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from tests.report.browser import CHROMIUM, SIZES, browser, opened
from tests.tracking.runs import CURVE, Made, MadeInTwoSteps, recipe

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{7*7}} $\\frac{1}{0}$ -->"
in_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


def inputs_of(made: Made) -> dict[str, object]:
    steps = made.manifests()
    names = {
        "run": "compare",
        "teacher": "fetch_teacher",
        "generator": "distill",
        "dataset": "prepare_data",
        "reference": "reference_statistics",
        "teacher_scores": "score_teacher",
        "scores": "score",
    }
    return {name: steps[step] for name, step in names.items()}


def page(store: ObjectStore, made: Made, curve: list[dict[str, float]] = CURVE) -> str:
    return page_of(made.recipe, inputs_of(made), store, curve)  # type: ignore[arg-type]


class Elements(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_says_the_verdict_first_and_holds_every_section(store: ObjectStore) -> None:
    text = page(store, Made(store, recipe(), (0.6, 0.61, 0.59)))
    found = Elements(text)
    ids = [attributes["id"] for tag, attributes in found.tags if tag == "section"]
    assert ids == ["verdict", "samples", "data", "curves", "health", "timing", "provenance", "licences", "reproduce"]
    assert "The generator surpasses its teacher." in text
    assert len(text) < 5_000_000
    said = " ".join(found.text)
    for words in (
        "0.600\u00a0\u00b1\u00a00.010",
        "CC BY 4.0",
        "sida run digits",
        "f" * 40,
        "distill: iterations",
        "Inside an iteration",
        "skipped samples",
        "10 images (1\N{MULTIPLICATION SIGN}8\N{MULTIPLICATION SIGN}8) from digits",
    ):
        assert words in said


def test_the_page_shows_the_score_after_each_step_beside_the_teacher_s_where_there_are_several(
    store: ObjectStore,
) -> None:
    assert "Score against steps" not in page(store, Made(store, recipe(), (0.6, 0.61, 0.59)))
    found = Elements(page(store, MadeInTwoSteps(store, recipe(method={"steps": 2}), (0.6, 0.61, 0.59))))
    said = " ".join(" ".join(found.text).split())
    rows = (
        "1 step 1.200 \u00b1 0.010 (sd) \u00b1 0.025 2 steps 0.600 \u00b1 0.010 (sd) \u00b1 0.026 "
        "teacher, 35 NFE 1.000 \u00b1 0.020 (sd) -"
    )
    assert rows in said
    assert "on the seeds of the last: 3 held-out ranges of 200 images." in said
    charts = [text for text in found.text if text in ("1 step: 1.200", "2 steps: 0.600", "teacher, 35 NFE: 1.000")]
    assert len(charts) == 3


def test_the_page_of_a_generator_that_was_made_elsewhere_has_no_selection_score(store: ObjectStore) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    inputs: dict[str, Any] = inputs_of(made)
    foreign = inputs["generator"].result.model_copy(update={"selection_score": None, "curve": None})
    inputs["generator"] = inputs["generator"].model_copy(update={"result": foreign})
    assert "made elsewhere, without a selection score" in page_of(made.recipe, inputs, store, [])


def test_the_page_shows_the_training_set_and_says_what_was_left_out_of_it(store: ObjectStore, tmp_path: Path) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    inputs: dict[str, Any] = inputs_of(made)
    data = inputs["dataset"].result
    shards = Shard(object=made.put(np.zeros(10, record_dtype("pixels", 1, 8)).tobytes(), "shard.bin"), count=10)
    data = data.model_copy(update={"shards": (shards,), "excluded": Excluded(unreadable=2, kept_duplicates=1)})
    path = tmp_path / "dataset.png"
    draw_picture(path, Shards(store, data), data)
    data = data.model_copy(update={"picture": made.put(path.read_bytes(), path.name)})
    inputs["dataset"] = inputs["dataset"].model_copy(update={"result": data})
    text = page_of(made.recipe, inputs, store, CURVE)
    found = Elements(text)
    (image,) = [a for tag, a in found.tags if tag == "img" and "training images and histogram" in str(a.get("alt"))]
    shown = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
    assert shown == path.read_bytes()
    assert "2 unreadable images left out; 1 duplicates kept, as published." in " ".join(" ".join(found.text).split())
    inputs["dataset"] = inputs["dataset"].model_copy(update={"result": data.model_copy(update={"picture": None})})
    assert "There are no images to show." in page_of(made.recipe, inputs, store, CURVE)


def test_the_page_asks_the_network_for_nothing(store: ObjectStore) -> None:
    found = Elements(page(store, Made(store, recipe(), (0.6, 0.61, 0.59))))
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "embed")]
    for tag, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)


def test_every_value_of_a_recipe_or_a_file_is_escaped(store: ObjectStore) -> None:
    made = Made(store, recipe(description=HOSTILE), (0.6, 0.61, 0.59))
    made.licence = HOSTILE
    made.rows = tuple(row.model_copy(update={"label": HOSTILE, "metric": "fd_digits"}) for row in made.rows)  # type: ignore[assignment]
    text = page(store, made)
    found = Elements(text)
    assert not [tag for tag, _ in found.tags if tag == "script"]
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    assert " ".join(found.text).count("<script>alert('x')</script>") >= 4  # shown as text, not lost
    assert "{{7*7}}" in " ".join(found.text)


def test_names_in_a_chart_are_text_too_and_two_charts_share_no_id() -> None:
    a = svg(Chart(HOSTILE, "a", {HOSTILE: [(1, 1), (2, 2)]}, {"teacher": 1.5}))
    b = svg(Chart("other", "b", {"b": [(1, 1.0), (2, 20.0)]}, logarithmic=True))
    assert "<script>" not in a and "onerror=alert" in a  # as text
    assert not [tag for tag, _ in Elements(a).tags if tag in ("script", "img")]
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (a, b)]
    assert ids[0] and not ids[0] & ids[1]
    assert "currentColor" in a and "#010203" not in a
    assert svg(Chart("other", "b", {"b": [(1, 1.0), (2, 20.0)]}, logarithmic=True)) == b


def test_a_run_without_curve_or_classes_has_a_page(store: ObjectStore) -> None:
    made = Made(store, recipe(), (1.5, 1.51, 1.49))
    made.evidence |= {"coverage": []}
    text = page(store, made, [])
    assert "The generator is behind its teacher." in text
    assert "Class coverage</h3>" not in text


@pytest.mark.slow
@in_browser
def test_a_browser_finds_nothing_to_complain_about(store: ObjectStore, tmp_path: Path) -> None:
    made = Made(store, recipe(description=HOSTILE), (0.6, 0.61, 0.59))
    path = tmp_path / "report.html"
    path.write_text(page(store, made))
    with browser() as chromium:
        for size in SIZES:
            for scheme in ("light", "dark"):
                with opened(chromium, path, size, scheme) as shown:
                    assert shown.errors == []
                    assert not shown.overflows()
                    assert shown.faults() == []
                    shown.picture(f"report-{size}-{scheme}")
                    for link in shown.page.locator("nav a").all():
                        assert shown.page.locator(str(link.get_attribute("href"))).count() == 1
                    shown.page.keyboard.press("Tab")
                    assert shown.page.evaluate("document.activeElement.textContent") == "To the verdict"


def test_names_of_class_folders_stand_in_the_page_escaped(store: ObjectStore) -> None:
    made = Made(store, recipe(), (0.6, 0.61, 0.59))
    inputs: dict[str, Any] = inputs_of(made)
    data = inputs["dataset"]
    names = (HOSTILE, *(f"folder-{number}" for number in range(1, data.result.classes)))
    named = data.result.model_copy(update={"class_names": names})
    inputs["dataset"] = data.model_copy(update={"result": named})
    found = Elements(page_of(made.recipe, inputs, store, CURVE))
    text = " ".join("".join(found.text).split())
    assert "Classes, by class folder: 0 <script>" in text and "1 folder-1, 2 folder-2" in text
    assert not [tag for tag, attributes in found.tags if "onerror" in attributes]
    assert "class_names" in named.model_dump() and "class_names" not in data.result.model_dump()  # digests stay
