"""Views of a result on Kubeflow's pages, beside the manifest itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.manifests import Manifest, PublishedResult, ReportResult, RunResult, ScoresResult
from sida.report.compare import markdown as run_markdown
from sida.report.compare import standing_of
from sida.scoring.table import markdown as table_markdown
from sida.scoring.table import refuse_failures
from sida.scoring.words import series_name
from sida.settings import settings
from sida.stores import open_store
from sida.tracking.links import mlflow_link


@dataclass(frozen=True)
class Output:
    """Result of a component: the step's manifest, or a view of it."""

    name: str
    artifact: str  # Kubeflow's type
    text: str  # description


@dataclass(frozen=True)
class Views:
    """Further outputs of a component, and the function that fills them from the manifest and the component's arguments."""

    show: Callable[[Manifest[Any], dict[str, Any]], None]
    outputs: tuple[Output, ...] = ()


def _scores(manifest: Manifest[ScoresResult], given: dict[str, Any]) -> None:
    for row in manifest.measured:
        name = f"{row.model}_{series_name(row.metric, row.n)}"
        given["scores"].log_metric(name, row.mean)
        if row.protocol == "best":
            given["scores"].log_metric(f"{name}_best_of_{len(row.values)}", row.reported)


def _run(manifest: Manifest[RunResult], given: dict[str, Any]) -> None:
    for name, number in standing_of(manifest).items():
        given["standing"].log_metric(name, number)
    if link := mlflow_link(given["recipe"], given["run_id"]):
        given["run"].metadata["mlflow"] = link
    Path(given["summary"].path).write_text(run_markdown(manifest, link), encoding="utf-8")


def _table(manifest: Manifest[PublishedResult], given: dict[str, Any]) -> None:
    Path(given["summary"].path).write_text(table_markdown(manifest), encoding="utf-8")
    refuse_failures(manifest)


def _page(manifest: Manifest[ReportResult], given: dict[str, Any]) -> None:
    Path(given["page"].path).write_bytes(open_store(settings().store).read(manifest.result.page.key))


VIEWS: dict[str, Views] = {
    "score_teacher": Views(_scores),
    "score": Views(_scores),
    "compare": Views(
        _run,
        (
            Output("summary", "Markdown", "The table and the verdict to read."),
            Output(
                "standing",
                "Metrics",
                "The score now, the last one of this recipe, and whether it regressed (1) or not (0).",
            ),
        ),
    ),
    "published_table": Views(_table, (Output("summary", "Markdown", "The table to read."),)),
    "report": Views(_page, (Output("page", "HTML", "The page, one HTML file that needs nothing else."),)),
}
