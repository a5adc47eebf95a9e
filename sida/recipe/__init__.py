"""Recipes: everything that decides a number, as frozen typed models read from YAML.

A recipe says *what* is done; settings say *where*. A variant names its base in ``extends`` and changes single fields. Unknown
keys and wrong types are refused with the path of the field. Paths inside a recipe are relative to the recipe's file;
``recipes://assets/NAME`` is a file that comes with the project.
"""

from __future__ import annotations

from sida.recipe.fields import (
    EMA_RAMP,
    Dataset,
    Detector,
    Evaluation,
    Execution,
    Expected,
    Gate,
    Generator,
    Latents,
    Method,
    Network,
    Recipe,
    ReferenceFile,
    Sampler,
    SecondMetric,
    Teacher,
    TeacherTraining,
)
from sida.recipe.reading import Loader, addresses, chain, find, load, names, parse
from sida.recipe.shipped import RECIPES, located, portable, traveling

__all__ = [
    "EMA_RAMP",
    "RECIPES",
    "Dataset",
    "Detector",
    "Evaluation",
    "Execution",
    "Expected",
    "Gate",
    "Generator",
    "Latents",
    "Loader",
    "Method",
    "Network",
    "Recipe",
    "ReferenceFile",
    "Sampler",
    "SecondMetric",
    "Teacher",
    "TeacherTraining",
    "addresses",
    "chain",
    "find",
    "load",
    "located",
    "names",
    "parse",
    "portable",
    "traveling",
]
