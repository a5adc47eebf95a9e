"""The result of a run, for people and for programs, from the manifests that its last step wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.manifests import Manifest, ReportResult, RunResult, of_kind, parse_manifest
from sida.report.compare import table
from sida.scoring import words
from sida.stores import open_store, read_address

if TYPE_CHECKING:
    from pipeline.local import Outcome


@dataclass(frozen=True)
class Run:
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
        lines = ["", *aligned(table(self.manifest)), "", result.verdict, ""]
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
                {
                    "name": event["step"],
                    "state": event["state"],
                    "seconds": event["seconds"],
                    "manifest": event["manifest"],
                }
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


def read(outcome: Outcome) -> Run:
    """Return the run that ``compare`` described; write ``report.html`` into the run's folder."""
    address = outcome.manifest("compare")
    manifest = of_kind(parse_manifest(read_address(address), address), RunResult, address)
    result, store = manifest.result, open_store(manifest.about.store)
    generator, grid = store.address_of(result.generator.key), store.address_of(result.grid.key)
    report = outcome.folder / "report.html"
    page = parse_manifest(read_address(outcome.manifest("report")), "report")
    report.write_bytes(store.read(of_kind(page, ReportResult, "report").result.page.key))
    return Run(manifest, address, generator, grid, _file_address(report))


def _file_address(path: Path) -> str:
    return f"file://{path.absolute()}"


def aligned(rows: Sequence[tuple[str, ...]], left: int = 1) -> list[str]:
    """Return aligned columns: the first ``left`` of them to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        placed = (cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in cells)
        lines.append("  ".join(placed).rstrip())
    return lines
