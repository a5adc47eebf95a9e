"""What makes a checkpoint belong to a run: everything that decides its numbers, field by field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sida.errors import UserError
from sida.recipe import Evaluation, Method
from sida.worker.job import Job

ABSENT = object()


def identity_of(job: Job[Any]) -> dict[str, Any]:
    """Field path -> value, of the recipe's parts that decide a distillation's numbers and of its inputs' digests."""
    evaluation = job.recipe.evaluation
    fields = {f"method.{name}": value for name, value in job.recipe.method.model_dump(mode="json").items()}
    for name in ("selection_images", "selection_every", "stop_after"):
        fields[f"evaluation.{name}"] = getattr(evaluation, name)
    for name, value in job.recipe.teacher.network.model_dump(mode="json").items():
        fields[f"teacher.network.{name}"] = value
    return fields | {f"inputs.{name}": ref.digest for name, ref in sorted(job.spec.inputs.items())}


def refuse_other(saved: dict[str, Any], mine: dict[str, Any], job: Job[Any], seen: int) -> None:
    """Raise UserError naming the first field in which the recipe differs from the checkpoint's.

    A field that the checkpoint does not know (it is older than the field) counts as having its default.
    """
    for path in [*mine, *(path for path in saved if path not in mine)]:
        before, now = saved.get(path, _default(path)), mine.get(path, ABSENT)
        if before != now:
            raise UserError(
                f"recipe {job.recipe.name}: {path} is {_shown(now)}, but the checkpoint at {seen:,} images was made with "
                f"{_shown(before)}: set it back, or make a new attempt with --force {job.step}"
            )


def _default(path: str) -> Any:
    part, _, name = path.partition(".")
    models: dict[str, type[BaseModel]] = {"method": Method, "evaluation": Evaluation}
    model = models.get(part)
    field = model.model_fields.get(name) if model is not None else None
    return ABSENT if field is None or field.is_required() else field.get_default()


def _shown(value: Any) -> str:
    return "not there" if value is ABSENT else repr(value)
