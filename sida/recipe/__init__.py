"""Recipes: everything that decides a number, as frozen typed models read from YAML.

A recipe says *what* is done; settings say *where*. A variant names its base in ``extends`` and changes single fields. Unknown
keys and wrong types are refused with the path of the field. Paths inside a recipe are relative to the recipe's file.
"""

from __future__ import annotations

from sida.recipe.fields import (
    Dataset,
    Detector,
    Evaluation,
    Execution,
    Expected,
    Gate,
    Generator,
    Guide,
    Latents,
    Method,
    Network,
    Recipe,
    ReferenceFile,
    Released,
    Sampler,
    Targets,
    Teacher,
    TeacherTraining,
)
from sida.recipe.reading import RECIPES, Loader, addresses, chain, find, load, names, parse

__all__ = [
    "RECIPES",
    "Dataset",
    "Detector",
    "Evaluation",
    "Execution",
    "Expected",
    "Gate",
    "Generator",
    "Guide",
    "Latents",
    "Loader",
    "Method",
    "Network",
    "Recipe",
    "ReferenceFile",
    "Released",
    "Sampler",
    "Targets",
    "Teacher",
    "TeacherTraining",
    "addresses",
    "chain",
    "find",
    "load",
    "names",
    "parse",
]
