"""Steps one after the other, each manifest in a file, as a pipeline hands them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.recipe import Recipe
from sida.steps import Step


def runner(folder: Path, recipe: Recipe) -> Callable[..., str]:
    """Runs a step and gives its manifest as a file in ``folder``, as the next step takes it."""

    def run(step: Step[Any], **arguments: Any) -> str:
        manifest = step(recipe=recipe, **arguments).manifest
        path = folder / f"{manifest.about.step}.json"
        path.write_bytes(manifest.to_json())
        return str(path)

    return run
