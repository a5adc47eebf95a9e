"""Runs side by side: the paper's rows are always there, who is ahead and why, CSV, JSON and the page."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from sida import records
from sida.recipe import load, names
from sida.report.comparison.entries import benchmarks, differences, finished_runs, in_words
from sida.report.comparison.literature import HEADINGS, LITERATURE, cells, literature, newest
from sida.report.comparison.page import comparison_page
from sida.report.comparison.table import as_csv, rows_of
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from tests.pipeline.command import Command
from tests.report.browser import CHROMIUM, SIZES, browser, opened
from tests.report.test_page import HOSTILE, Elements
from tests.tracking.runs import Made, recipe


@pytest.fixture
def store(place: Path) -> ObjectStore:
    return open_store(settings().store)


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, monkeypatch, capsys)


def write_two(store: ObjectStore) -> None:
    """SiDA, and SiD beside it, which is worse."""
    Made(store, recipe(), (0.6, 0.61, 0.59)).write("run-sida")
    Made(store, recipe(name="digits-sid", method={"name": "sid"}), (0.9, 0.92, 0.88), minute=1).write("run-sid")


def test_the_rows_of_the_paper_are_there_without_a_run_and_name_the_command_that_fills_them() -> None:
    rows = {row.title: row for row in benchmarks([])}
    assert len(rows) == 11 + 4  # five benchmarks in pixels, six sizes of EDM2; four better teachers
    uncond = rows["CIFAR-10 32x32 unconditional"]
    assert uncond.published == {"teacher": 1.97, "SiD": 1.923, "SiDA, SiD2A": 1.499, "newest": 1.46}
    assert uncond.command == "sida run cifar10-uncond"
    assert {row.published["newest"] for row in rows.values()} == {1.46, 1.38, 1.02, 0.85, 1.23, None}
    better = rows["CIFAR-10 32x32 unconditional, DDO's teacher (ours)"]
    assert better.published == {"teacher": 1.38, "SiD": None, "SiDA, SiD2A": None, "newest": 1.46}
    assert better.command == "sida run cifar10-uncond-ddo"
    assert [row.title for row in benchmarks([], ["ffhq-64"])] == ["FFHQ 64x64"]


def test_the_better_of_two_methods_is_told_with_its_interval_and_what_differs(store: ObjectStore) -> None:
    write_two(store)
    ours, left_out = finished_runs(store, records.runs(store))
    assert left_out == []
    (row,) = [row for row in benchmarks(ours) if row.entries]
    best, other = row.entries
    assert (best.method, other.method) == ("SiDA", "SiD")
    headline, numbers = in_words(best, other)
    assert headline == "digits (SiDA) is ahead of digits-sid (SiD)"
    assert numbers.startswith("fd_digits 0.600 against 0.900, difference -0.300")
    assert differences(best, other) == [("method.name", "sida", "sid")]


def test_the_page_says_who_is_ahead_what_differs_and_shows_the_quantities_side_by_side(store: ObjectStore) -> None:
    write_two(store)
    page = comparison_page(benchmarks(finished_runs(store, records.runs(store))[0]), store)
    said = " ".join(" ".join(Elements(page).text).split())
    assert "digits (SiDA) is ahead of digits-sid (SiD). fd_digits 0.600 against 0.900" in said
    assert "SiDA adds an adversarial loss, with real images; SiD learns from the teacher's scores alone." in said
    assert "fd_digits, held out, mean 0.600 ± 0.010 (sd), n = 200 best 0.900 ± 0.020 (sd), n = 200" in said
    assert "samples in their class's region 100.0% 100.0%" in said  # equal: none is the best

    Made(store, recipe(), (0.9, 0.91, 0.89), minute=2).write("run-level")  # now the two are level
    page = comparison_page(benchmarks(finished_runs(store, records.runs(store))[0]), store)
    assert "fd_digits, held out, mean 0.900 ± 0.010 (sd), n = 200 0.900 ± 0.020 (sd), n = 200" in " ".join(
        " ".join(Elements(page).text).split()
    )


@pytest.mark.parametrize(("mean", "kind"), [(0.6, "ahead"), (1.0, "level"), (1.5, "behind")])
def test_the_color_of_a_single_run_follows_its_numbers_and_not_its_words(
    store: ObjectStore, mean: float, kind: str
) -> None:
    Made(store, recipe(), (mean, mean + 0.01, mean - 0.01)).write("run")
    page = Elements(comparison_page(benchmarks(finished_runs(store, ["run"])[0]), store))
    boxes = [str(a["class"]).split()[1] for _, a in page.tags if str(a.get("class", "")).startswith("verdict")]
    assert boxes == [kind]


def test_each_result_of_others_says_steps_teacher_protocol_source_and_date() -> None:
    for row in cells(LITERATURE):
        assert len(row) == len(HEADINGS) and all(row)
        assert re.fullmatch(r"20\d\d-\d\d", row[-1]) and ("arXiv" in row[-2] or "README" in row[-2])
    named = {row.method.split(",")[0].split(" ")[0] for row in LITERATURE}
    assert named == {"DDO", "Uni-Instruct", "GDD", "FastGen", "CMT"}
    assert {row.data for row in literature(["ImageNet 512x512, EDM2-L"])} == {"ImageNet 512x512"}
    assert newest("ImageNet 512x512, EDM2-L") == ("", None)  # SiDA's own is the best of one step
    held = {one.targets.teacher for name in names() if "-ddo" in name and (one := load(name)).targets}
    assert {row.score for row in LITERATURE if row.method == "DDO (a teacher)"} == held  # as recipes are held to


def test_level_runs_and_other_protocols_are_not_called_better(store: ObjectStore) -> None:
    Made(store, recipe(), (0.6, 0.61, 0.59)).write("a")
    Made(store, recipe(name="b"), (0.605, 0.64, 0.57)).write("b")
    few = Made(store, recipe(name="c"), (0.1, 0.11, 0.09))
    few.rows = tuple(row.model_copy(update={"n": 50}) for row in few.rows)  # type: ignore[assignment]
    few.write("c")
    ours, _ = finished_runs(store, records.runs(store))
    (row,) = [row for row in benchmarks(ours) if row.entries]
    assert [entry.run for entry in row.entries] == ["a", "b", "c"]  # what is comparable lies together
    assert "is level with" in in_words(row.entries[0], row.entries[1])[0]
    assert "cannot be compared" in in_words(row.entries[0], row.entries[2])[0]


def test_of_equal_runs_the_newest_counts_and_one_that_cannot_be_read_is_said(store: ObjectStore) -> None:
    write_two(store)
    Made(store, recipe(), (0.6, 0.61, 0.59), minute=30).write("run-again")
    broken = Made(store, recipe(name="broken"), (1.0, 1.1, 0.9))
    broken.write("run-broken")
    key = records.made_key(records.calls(store, "run-broken")["distill"])
    store.delete(key)
    Made(store, recipe(name="half"), (1.0, 1.1, 0.9)).write("run-half", upto="distill")
    ours, left_out = finished_runs(store, records.runs(store))
    assert sorted(entry.run for entry in ours) == ["run-again", "run-sid"]
    assert len(left_out) == 1 and "run-broken" in left_out[0]


def test_a_run_that_was_asked_for_and_is_not_shown_is_said_with_the_reason(store: ObjectStore) -> None:
    write_two(store)
    Made(store, recipe(), (0.6, 0.61, 0.59), minute=30).write("run-again")
    Made(store, recipe(name="half"), (1.0, 1.1, 0.9)).write("run-half", upto="distill")
    asked = ["run-sida", "run-sid", "run-again", "run-half"]
    ours, left_out = finished_runs(store, asked, ["digits", "half"], each=True)
    assert [entry.run for entry in ours] == ["run-again"]
    assert sorted(left_out) == [
        "run run-half left out: it has no result to compare (`status run-half`)",
        "run run-sid left out: it is of the recipe digits-sid",
        "run run-sida left out: run-again is of the same recipe and repeat, and counts in its place",
    ]


def test_csv_and_json_hold_one_record_for_each_run_and_each_empty_row(store: ObjectStore) -> None:
    write_two(store)
    rows = rows_of(benchmarks(finished_runs(store, records.runs(store))[0]))
    found = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(found) == len(rows) == 2 + 15
    assert found[0]["recipe"] == "digits" and float(found[0]["score"]) == pytest.approx(0.6)
    assert float(found[0]["interval95"]) == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert float(found[0]["sd"]) == pytest.approx(0.01)
    assert found[2]["score"] == "" and found[2]["command"].startswith("sida run ")


def test_the_verb_prints_a_table_and_leaves_page_csv_and_json(
    store: ObjectStore, command: Command, place: Path
) -> None:
    write_two(store)
    said = command("compare")
    assert said.status == 0, said
    assert "digits (SiDA) is ahead of digits-sid (SiD)" in said.out
    assert "sida run cifar10-cond" in said.out
    assert "0.600 +- 0.010 (sd)" in said.out
    assert all("(sd)" in line or "(95%)" in line for line in said.out.splitlines() if "+-" in line)
    folder = place / "runs" / "comparison"
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.csv", "comparison.html", "comparison.json"]
    chosen = command("compare", "digits-sid", "--json", "--output", str(place / "out"))
    assert [record["run"] for record in json.loads(chosen.out)["benchmarks"]] == ["run-sid"]
    only = command("compare", "--runs", "run-sida", "--json")
    assert [r["run"] for r in json.loads(only.out)["benchmarks"] if r["run"]] == ["run-sida"]


def test_mistakes_are_named_in_a_line(store: ObjectStore, command: Command) -> None:
    write_two(store)
    assert "no run 'run-x'" in command("compare", "--runs", "run-x").mistake()
    assert "did you mean" in command("compare", "digist").mistake()
    Made(store, recipe(name="half"), (1.0, 1.1, 0.9)).write("run-half", upto="distill")
    line = command("compare", "--runs", "run-half").mistake()
    assert "no run to compare: run run-half left out: it has no result to compare (`status run-half`)" in line
    said = command("compare", "--runs", "run-sid", "run-half")
    assert (said.status, "run run-half left out" in said.err) == (0, True)


def test_hostile_names_stay_text_on_the_page_and_in_the_csv(store: ObjectStore) -> None:
    made = Made(store, recipe(description=HOSTILE, teacher={"licence": HOSTILE}), (0.6, 0.61, 0.59))
    made.write("a")
    Made(store, recipe(name="b", teacher={"licence": "=1+1"}), (0.9, 0.91, 0.89)).write("b")
    rows = benchmarks(finished_runs(store, records.runs(store))[0])
    rows[0].title = HOSTILE
    found = Elements(comparison_page(rows, store))
    assert len([tag for tag, _ in found.tags if tag == "script"]) == 1  # our own, by its nonce
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    assert all(a.get("src", "data:").startswith("data:") for tag, a in found.tags if tag == "img")  # type: ignore[union-attr]
    rows[0].title = "=HYPERLINK(1)"
    assert "\n'=HYPERLINK" in as_csv(rows_of(rows))
    rows[0].title = "a\x1b[2Jb\u202e"
    assert "\na\\x1b[2Jb\\u202e," in as_csv(rows_of(rows))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_in_a_browser_the_table_sorts_the_slider_works_and_nothing_is_wrong(store: ObjectStore, tmp_path: Path) -> None:
    write_two(store)
    path = tmp_path / "comparison.html"
    path.write_text(comparison_page(benchmarks(finished_runs(store, records.runs(store))[0]), store))
    with browser() as chromium:
        for size in SIZES:
            with opened(chromium, path, size, "dark" if size == "phone" else "light") as shown:
                page = shown.page
                assert not shown.overflows()
                assert shown.faults() == []
                if size == "desktop":  # every column is seen without scrolling
                    assert page.evaluate(
                        "(t => t.scrollWidth <= t.clientWidth)(document.querySelector('#scores .scroll'))"
                    )
                shown.picture(f"comparison-{size}")
                column = "td:nth-child(8)"
                for expected in (sorted, lambda v: sorted(v, reverse=True)):
                    page.get_by_role("button", name="newest published").click()
                    cells = page.locator(f"table.sortable tbody {column}").all()
                    values = [float(v) for cell in cells if (v := cell.get_attribute("data-value"))]
                    assert len(values) == 8 and values == expected(values)
                    assert all(cell.get_attribute("data-value") is None for cell in cells[8:])  # the empty ones last
                slider = page.get_by_role("slider")
                slider.focus()
                before = page.evaluate("getComputedStyle(document.querySelector('.stack .left')).clipPath")
                for _ in range(20):
                    page.keyboard.press("ArrowRight")
                after = page.evaluate("getComputedStyle(document.querySelector('.stack .left')).clipPath")
                assert before != after
                page.locator("select[data-side=left]").select_option(label="real")
                for link in page.locator("a[href^='file:']").all():
                    assert Path(str(link.get_attribute("href")).removeprefix("file://")).exists()
                assert shown.errors == []
