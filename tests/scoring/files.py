"""Steps one after the other, each manifest in a file, as a pipeline hands them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.recipe import Recipe
from sida.registry import EVERY_STEP
from sida.steps import Step


def runner(folder: Path, recipe: Recipe) -> Callable[..., str]:
    """Runs a step and gives its manifest as a file in ``folder``, as the next step takes it."""

    def run(step: Step[Any], **arguments: Any) -> str:
        manifest = step(recipe=recipe, **arguments).manifest
        path = folder / f"{manifest.about.step}.json"
        path.write_bytes(manifest.to_json())
        return str(path)

    return run


def whole_run(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Run every step of a recipe, data to report; their manifests' files by the steps' names."""
    run, steps = runner(folder, recipe), EVERY_STEP
    made = {name: run(steps[name]) for name in ("prepare_data", "fetch_teacher")}
    made["reference_statistics"] = reference = run(steps["reference_statistics"], dataset=made["prepare_data"])
    made["score_teacher"] = gate = run(steps["score_teacher"], teacher=made["fetch_teacher"], reference=reference)
    made["distill"] = generator = run(steps["distill"], teacher_scores=gate)
    made["score"] = scores = run(steps["score"], generator=generator, reference=reference)
    made["compare"] = described = run(steps["compare"], teacher_scores=gate, scores=scores)
    return made | {"report": run(steps["report"], run=described)}
