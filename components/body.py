"""The body of every component."""

from __future__ import annotations

from typing import Any

from components.interface import parameters_of
from components.views import VIEWS
from sida.registry import STEPS
from sida.steps.execute import ended_in_a_line, execute, execute_one_of_many


def run_step(name: str, given: dict[str, Any]) -> None:
    """Run a step with its component's arguments, by name: texts, and artifacts with ``path`` and ``metadata``."""
    step = STEPS[name]
    arguments: dict[str, Any] = {}
    for parameter in parameters_of(step):
        value = given[parameter.name]
        match parameter.kind:
            case "manifest":
                arguments[parameter.name] = value.path if value else ""
            case "manifests":
                arguments[parameter.name] = [one.path for one in value]
            case "text":
                arguments[parameter.name] = value
    run = execute_one_of_many if given.get("one_of_many") else execute
    outcome = run(step, given[step.output_name], **arguments)
    if outcome is not None and name in VIEWS:
        with ended_in_a_line(name):
            VIEWS[name].show(outcome.manifest, given)
