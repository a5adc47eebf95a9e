"""What a command line asks for beside a recipe's own metric: further metrics of the same images, FD-DINOv2 among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sida.errors import UserError
from sida.recipe import Detector, Evaluation, SecondMetric
from sida.scoring.detector_file import DINOV2_ADDRESS, DINOV2_FEATURES, DINOV2_SHA256

FD_DINOV2 = "fd_dinov2"
METRICS = ("is", "kid", "precision_recall", FD_DINOV2)


def also(evaluation: Evaluation, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a recipe's evaluation that measures these metrics too.

    Raises UserError where FD-DINOv2 is asked for beside a second metric that is another.
    """
    fields = evaluation.model_dump(mode="json")
    further = {*evaluation.extra_metrics, *metrics} - {FD_DINOV2}
    fields["extra_metrics"] = sorted(further)
    measured = [evaluation.metric, *([evaluation.second.metric] if evaluation.second else [])]
    if FD_DINOV2 in metrics and FD_DINOV2 not in measured:
        if evaluation.second is not None:
            raise UserError(
                f"--metric {FD_DINOV2}: the recipe has a second metric, {measured[1]}: leave one of the two out"
            )
        fields["second"] = _fd_dinov2(evaluation).model_dump(mode="json")
    return fields


def _fd_dinov2(evaluation: Evaluation) -> SecondMetric:
    """Return the section as published: Meta's weights, and EDM2's statistics where the recipe names that file.

    EDM's npz hold those of Inception alone: the training set is passed through DINOv2.
    """
    detector = Detector(kind="dinov2", address=DINOV2_ADDRESS, sha256=DINOV2_SHA256, features=DINOV2_FEATURES)
    given = evaluation.reference
    reference = given if given is not None and given.address.endswith(".pkl") else None
    return SecondMetric(metric=FD_DINOV2, detector=detector, reference=reference)
