"""What decides each step's key, frozen for every shipped recipe: a key that moves makes everybody's results anew.

After a change that is meant to move keys (say so in the changelog) run ``python -m tests.test_step_keys``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sida import recipe
from sida.data.prepare import prepare_data
from sida.manifests import Manifest, Part
from sida.recipe import Recipe
from sida.report.compare import compare
from sida.scoring.reference import reference_statistics
from sida.scoring.score import score, score_teacher
from sida.steps import Step, StepRun
from sida.steps.attempts import key_of
from sida.teachers.fetch import fetch_generator, fetch_teacher
from sida.training.distill_step import distill
from sida.training.teach_step import teach

RECORD = Path(__file__).with_name("step_keys.json")


def manifest(name: str, kind: type[Part] = Part) -> Manifest[Any]:
    """An input, of which a key needs the digest alone."""
    result = kind.model_construct(rows=())
    return Named.model_construct(result=result, digest_of_name=hashlib.sha256(name.encode()).hexdigest())


class Named(Manifest[Any]):
    """A manifest whose digest is that of a name."""

    digest_of_name: str

    @property
    def digest(self) -> str:
        return self.digest_of_name


class Known(Exception):
    """The key of a step that was about to run."""


@contextmanager
def foreign() -> Iterator[None]:
    """Files and manifests by name: what is in them is known by its digest."""

    def digest(address: Any, what: str, sha256: str | None, **_: Any) -> str:
        return sha256 or hashlib.sha256(f"{what} {address}".encode()).hexdigest()

    def file(address: Any, what: str, sha256: str | None, **named: Any) -> tuple[Path, str]:
        return Path(what), digest(address, what, sha256)

    def carried(maker: Manifest[Any], name: str, kind: type[Part]) -> Manifest[Any]:
        return manifest(name, kind)

    def detector(wanted: Any) -> tuple[Path, str]:
        return Path("detector"), digest(wanted.address, "detector", wanted.sha256)

    stand_ins: dict[str, Callable[..., Any]] = {
        "sida.data.identity.identify": lambda dataset: {"address": str(dataset.address)},
        "sida.teachers.fetch.digest_of_file": digest,
        "sida.foreign.fetch.fetch_file": file,
        "sida.scoring.reference.fetch_file": file,
        "sida.scoring.reference.detector_file": detector,
        "sida.scoring.score.carried": carried,
        "sida.scoring.score.check_reference": lambda recipe, manifest: None,
        "sida.training.distill_step.carried": carried,
        "sida.report.compare.carried": carried,
        "sida.report.compare.previous": lambda *_: None,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch(name, stand_in))
        yield


def key(step: Step[Any], recipe: Recipe, **inputs: str) -> str:
    """The step's key for this recipe and inputs of these names."""

    class Looking(StepRun):
        def claim(self, parameters: Mapping[str, Any] | None = None, **inputs: Manifest[Any]) -> None:
            asked = step.asks(recipe) | dict(parameters or {})
            raise Known(key_of(step.name, step.version, asked, inputs, self.repeat))

    taken = {name: manifest(given, step.inputs[name].kind) for name, given in inputs.items()}
    with Looking(step, recipe, None) as run:
        try:
            step.function(run, recipe, **taken)
        except Known as known:
            return str(known)
    raise AssertionError(f"{step.name} has no key")


def keys(loaded: Recipe) -> dict[str, str]:
    """Of every step that a run of the recipe may take."""
    with foreign():
        found = {
            "prepare_data": key(prepare_data, loaded),
            "reference_statistics": key(reference_statistics, loaded, dataset="dataset"),
            "score_teacher": key(score_teacher, loaded, teacher="teacher", reference="reference"),
            "distill": key(distill, loaded, teacher_scores="scores"),
            "score": key(score, loaded, generator="generator", reference="reference"),
            "compare": key(compare, loaded, teacher_scores="teacher_scores", scores="scores"),
        }
        if loaded.teacher.address is not None:
            found["fetch_teacher"] = key(fetch_teacher, loaded)
        if loaded.generator is not None:
            found["fetch_generator"] = key(fetch_generator, loaded)
        if loaded.teacher.train is not None:
            found["teach"] = key(teach, loaded, dataset="dataset")
    return found


def current() -> dict[str, dict[str, str]]:
    return {name: {step: made[:16] for step, made in keys(recipe.load(name)).items()} for name in recipe.names()}


def test_no_key_of_a_shipped_recipe_has_moved() -> None:
    recorded, now = json.loads(RECORD.read_text()), current()
    moved = {
        name: [step for step, made in steps.items() if now.get(name, {}).get(step) != made]
        for name, steps in recorded.items()
    }
    assert not {name: steps for name, steps in moved.items() if steps}
    assert set(now) == set(recorded), "a new recipe: run `python -m tests.test_step_keys`"


def test_a_key_moves_with_what_decides_the_result() -> None:
    loaded = recipe.load("digits")
    method = loaded.method.model_copy(update={"alpha": 1.1})
    changed = keys(loaded.model_copy(update={"method": method}))
    assert {step for step, made in keys(loaded).items() if changed[step] != made} == {"distill"}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
