"""Every step of the product."""

from __future__ import annotations

from typing import Any

from sida.data.prepare import prepare_data
from sida.report.compare import compare
from sida.report.report import report
from sida.scoring.adopt import fetch_released
from sida.scoring.images import score_images
from sida.scoring.labels import label_distribution, score_data
from sida.scoring.reference import reference_statistics
from sida.scoring.score import score, score_teacher
from sida.scoring.table import published_table
from sida.steps import Step
from sida.teachers.fetch import fetch_generator, fetch_teacher
from sida.training.distill_step import distill
from sida.training.teach_step import teach


def _by_name(*steps: Step[Any]) -> dict[str, Step[Any]]:
    return {step.name: step for step in steps}


# Steps of a pipeline, in the order of a run.
STEPS = _by_name(
    fetch_teacher,
    fetch_generator,
    prepare_data,
    teach,
    reference_statistics,
    score_teacher,
    distill,
    score,
    compare,
    report,
    fetch_released,
    score_data,
    published_table,
)
# With those that no pipeline names: one stands in for score_data, the other scores a folder.
EVERY_STEP = STEPS | _by_name(label_distribution, score_images)
