"""Recipes: everything that decides a number, as frozen typed models read from YAML.

A recipe says *what* is done; settings say *where*. A variant names its base in ``extends`` and changes single fields. Unknown
keys and wrong types are refused with the path of the field. Paths inside a recipe are relative to the recipe's file;
``recipes://assets/NAME`` is a file that comes with the project.
"""

from __future__ import annotations

from sida.recipe.dataset import Dataset, Latents
from sida.recipe.evaluation import Detector, Evaluation, Gate, ReferenceFile, SecondMetric
from sida.recipe.execution import Execution
from sida.recipe.method import EMA_RAMP, Method
from sida.recipe.published import Expected
from sida.recipe.reading import Loader, addresses, chain, find, load, names, parse
from sida.recipe.recipe import Recipe
from sida.recipe.shipped import RECIPES, located, portable, traveling
from sida.recipe.teacher import Generator, Network, Sampler, Teacher, TeacherTraining

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
