"""The result of a run, for people and for programs, from the manifests that its last step wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import output
from pipeline.local import Outcome
from sida.manifests import Manifest, ReportResult, RunResult, of_kind, parse_manifest
from sida.report.compare import table
from sida.scoring import words
from sida.stores import open_store, read_address


@dataclass(frozen=True)
class RunSummary:
    """Finished run: its manifest, where that lies, and the addresses of its results."""

    manifest: Manifest[RunResult]
    address: str
    generator: str
    grid: str
    report: str

    def as_text(self, outcome: Outcome) -> str:
        """Return table, verdict, addresses."""
        result = self.manifest.result
        reused = [event["step"] for event in outcome.steps if event["state"] == "reused"]
        lines = ["", *output.aligned(table(self.manifest)), "", result.verdict, ""]
        if result.regression is not None:
            lines += [words.regression(result.regression), ""]
        lines += [f"generator  {self.generator}", f"samples    {self.grid}", f"report     {self.report}"]
        lines += [f"run        {self.address}", ""]
        ending = f"{len(reused)} of {len(outcome.steps)} steps reused"
        return "\n".join([*lines, f"done in {outcome.seconds:.1f} s; {ending}"])

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
                for row in result.rows
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
    manifest = of_kind(parse_manifest(read_address(address), address), RunResult, address)
    result, store = manifest.result, open_store(manifest.about.store)
    generator, grid = store.address_of(result.generator.key), store.address_of(result.grid.key)
    report = outcome.folder / "report.html"
    page = parse_manifest(read_address(outcome.manifest("report")), "report")
    report.write_bytes(store.read(of_kind(page, ReportResult, "report").result.page.key))
    return RunSummary(manifest, address, generator, grid, f"file://{report.absolute()}")
