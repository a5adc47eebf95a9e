"""Inputs and outputs of a step as a component: the manifests of its signature, and those that every component has."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from components.views import VIEWS, Output
from sida.manifests import Part, kind_of
from sida.steps import Step

# Kubeflow's types for kinds of manifests; "Artifact" for the others.
ARTIFACTS = {"teacher": "Model", "generator": "Model", "dataset": "Dataset", "scores": "Metrics"}


@dataclass(frozen=True)
class Parameter:
    """Parameter of a component; a manifest has no default."""

    name: str
    kind: Literal["text", "truth", "manifest", "manifests"]
    text: str  # description, for --help and Kubeflow's pages
    optional: bool = True
    artifact: str = ""  # Kubeflow's type, of a manifest

    @property
    def default(self) -> str | bool | None:
        """Return the default of an optional parameter."""
        return "" if self.kind == "text" else False if self.kind == "truth" else None


def parameters_of(step: Step[Any]) -> list[Parameter]:
    """Return the parameters of a step's component, in order."""
    described = _sections(step)[1]
    parameters = [
        Parameter("recipe", "text", "Name of a recipe, or address of a resolved one in the store.", optional=False)
    ]
    for taken in step.inputs.values():
        kind: Literal["manifest", "manifests"] = "manifests" if taken.many else "manifest"
        text = described[taken.name]
        parameters.append(Parameter(taken.name, kind, text, taken.optional, _artifact(taken.kind)))
    parameters.append(Parameter("attempt", "text", '"new" makes the result again; empty reuses what is there.'))
    if step.measures:
        parameters += [
            Parameter(
                "repeat",
                "text",
                'Any text; another text is another score. Empty or "reuse": what is there; "scheduled": the time below.',
            ),
            Parameter("scheduled", "text", "The time for which the run was planned."),
        ]
    parameters.append(Parameter("run_id", "text", "The run that this call is recorded under; empty: SIDA_RUN."))
    if step.per_recipe:
        text = "A failure is passed on in place of the result, so that the run goes on with other recipes."
        parameters.append(Parameter("one_of_many", "truth", text))
    return parameters


def outputs_of(step: Step[Any]) -> list[Output]:
    """Return the results of a step's component: its manifest first."""
    views = VIEWS[step.name].outputs if step.name in VIEWS else ()
    return [Output(step.output_name, _artifact(step.result), _sections(step)[2]), *views]


def _artifact(result: type[Part]) -> str:
    return ARTIFACTS.get(kind_of(result), "Artifact")


def description_of(step: Step[Any]) -> str:
    """Return the step's docstring without the sections on arguments and result."""
    return _sections(step)[0]


def _sections(step: Step[Any]) -> tuple[str, dict[str, str], str]:
    """Return (description, argument -> text, result) of a docstring in Google's style."""
    text, _, rest = (inspect.getdoc(step.function) or "").partition("\n\nReturns:\n")
    text, _, arguments = text.partition("\n\nArgs:\n")
    pairs = (line.strip().partition(": ") for line in arguments.splitlines() if line.strip())
    return text, {name: words for name, _, words in pairs}, " ".join(rest.split())
