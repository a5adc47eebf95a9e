"""A step as a component of Kubeflow Pipelines.

kfp takes a component's interface from a function's annotations and sends the function's source to the pod, so that source is
written here from the step's signature.
"""

from __future__ import annotations

import linecache
import textwrap
import typing
from typing import Any

from components.interface import Output, Parameter, description_of, outputs_of, parameters_of
from sida.registry import STEPS
from sida.steps import Step


def component_of(name: str) -> Any:
    """Return the kfp component of a step; its image is replaced by the profile's when a pipeline is compiled."""
    from kfp import dsl

    source, file = source_of(STEPS[name]), f"components/{name} (generated)"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # where kfp looks for it
    namespace: dict[str, Any] = {**vars(typing), **vars(dsl), "__name__": __name__}
    exec(compile(source, file, "exec", dont_inherit=True), namespace)  # noqa: S102 (our own text)
    return dsl.component(base_image="sida:0.1.0", install_kfp_package=False)(namespace[name])


def source_of(step: Step[Any]) -> str:
    """Return the source text of the component's function."""
    parameters, outputs = parameters_of(step), outputs_of(step)
    required = [parameter for parameter in parameters if not parameter.optional]
    optional = [parameter for parameter in parameters if parameter.optional]
    signature = [f"{parameter.name}: {_annotation(parameter)}" for parameter in required]
    signature += [f"{output.name}: Output[{output.artifact}]" for output in outputs]
    signature += [f"{parameter.name}: {_annotation(parameter)} = {parameter.default!r}" for parameter in optional]
    described: list[Parameter | Output] = [*required, *outputs, *optional]
    lines = [f'"""{description_of(step)}', "", "Args:", *(f"    {one.name}: {one.text}" for one in described), '"""']
    lines += ["from components.body import run_step", "", f'run_step("{step.name}", locals())']
    body = textwrap.indent("\n".join(lines), "    ")
    arguments = textwrap.indent(",\n".join(signature), "    ")
    return f"def {step.name}(\n{arguments},\n):\n{body}\n"


def _annotation(parameter: Parameter) -> str:
    match parameter.kind:
        case "truth":
            return "bool"
        case "text":
            return "str"
        case "manifests":
            return f"Input[List[{parameter.artifact}]]"
    taken = f"Input[{parameter.artifact}]"
    return f"Optional[{taken}]" if parameter.optional else taken
