"""The result of a run, for people and for programs, from the manifests that its last steps wrote; of one on a cluster as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import output
from pipeline.local import Outcome
from sida import records
from sida.disk import replacing
from sida.manifests import Manifest, Part, ReportResult, RunResult, of_kind, parse_manifest
from sida.origin import store_of
from sida.report.compare import remarks, table
from sida.scoring import words
from sida.settings import settings
from sida.stores import ObjectRef, ObjectStore, read_address

DESCRIBED_BY = ("compare", "report")  # the steps whose results these are


@dataclass(frozen=True)
class RunSummary:
    """Finished run: its manifest, where that lies, the addresses of its results, and how each step ended: ran or reused."""

    manifest: Manifest[RunResult]
    address: str
    generator: str
    grid: str
    report: str
    states: tuple[str, ...]

    def as_text(self, seconds: float) -> str:
        """Return table, verdict, addresses."""
        result = self.manifest.result
        lines = ["", *output.aligned(table(self.manifest)), *remarks(self.manifest), "", result.verdict, ""]
        if result.regression is not None:
            lines += [words.regression(result.regression), ""]
        lines += [f"generator  {self.generator}", f"samples    {self.grid}", f"report     {self.report}"]
        lines += [f"run        {self.address}", ""]
        ending = f"{self.states.count('reused')} of {len(self.states)} steps reused"
        return "\n".join([*lines, f"done in {seconds:.1f} s; {ending}"])

    def as_json(self, recipe: str, outcome: Outcome) -> dict[str, Any]:
        """Return the fields of ``run --json``; names and meanings stay as they are."""
        result = self.manifest.result
        return {
            "recipe": recipe,
            "seconds": outcome.seconds,
            "steps": [
                {"name": event["step"]} | {key: event[key] for key in ("state", "seconds", "manifest")}
                for event in outcome.steps
            ],
            "scores": [
                row.model_dump(mode="json", include={"model", "nfe", "metric", "mean", "sd", "n"})
                for row in (*result.rows, *result.second)
            ],
            "verdict": result.verdict,
            "regression": result.regression.model_dump(mode="json") if result.regression else None,
            "report": self.report,
            "generator": self.generator,
            "samples": self.grid,
            "run": self.address,
        }


def read(outcome: Outcome) -> RunSummary:
    """Return the run that ``compare`` described; write ``report.html`` into the run's folder."""
    address = outcome.manifest("compare")
    run, page = (parse_manifest(read_address(place), place) for place in map(outcome.manifest, DESCRIBED_BY))
    store, states = store_of(run, address), [event["state"] for event in outcome.steps]
    return _summary(store, run, address, _write_page(store, page, outcome.folder), states)


def read_recorded(store: ObjectStore, run: str) -> RunSummary | None:
    """Return a run that the store has records of; None for one that makes no comparison.

    Its ``report.html`` is written into a folder of the run's name; where that cannot be, the page's address in the store is told.
    """
    calls = records.calls(store, run)
    made = records.manifests(store, {step: call for step, call in calls.items() if step in DESCRIBED_BY})
    if len(made) < len(DESCRIBED_BY):
        return None
    described, page = (made[step] for step in DESCRIBED_BY)
    try:
        report = _write_page(store, page, settings().runs / run)
    except OSError:
        report = store.address_of(_page(page).key)
    address = store.address_of(records.made_key(calls["compare"]))
    return _summary(store, described, address, report, [call.state for call in calls.values()])


def _write_page(store: ObjectStore, page: Manifest[Part], folder: Path) -> str:
    content, report = store.read(_page(page).key), folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(report) as draft:
        draft.write_bytes(content)
    return f"file://{report.absolute()}"


def _page(page: Manifest[Part]) -> ObjectRef:
    return of_kind(page, ReportResult, "report").result.page


def _summary(store: ObjectStore, run: Manifest[Part], address: str, report: str, states: Sequence[str]) -> RunSummary:
    manifest = of_kind(run, RunResult, address)
    generator, grid = (store.address_of(ref.key) for ref in (manifest.result.generator, manifest.result.grid))
    return RunSummary(manifest, address, generator, grid, report, tuple(states))
