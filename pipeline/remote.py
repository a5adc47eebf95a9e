"""Parts common to the verbs that talk to a cluster: arguments, and from RECIPE and profile to a compiled pipeline."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.running import add_force

if TYPE_CHECKING:
    from pipeline.compile import Compiled
    from pipeline.profile import Profile
    from sida.recipe import Recipe
    from sida.stores import ObjectStore


def add_recipe(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add RECIPE and what to compile of it."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs=None if required else "?",
        help="name of a recipe (see `list`), or path of a YAML file",
    )
    parser.add_argument(
        "--pipeline", metavar="NAME", default="reproduce", help="which pipeline: reproduce (default), the whole DAG"
    )
    add_force(parser)
    parser.add_argument(
        "--allow-tags",
        action="store_true",
        help="take images without a digest, with a warning: they can change under a run",
    )


def add_profile(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --profile."""
    parser.add_argument(
        "--profile",
        metavar="PROFILE",
        required=required,
        help="the cluster: name of a file in profiles/, or path of a YAML file",
    )


def compile_for(
    args: argparse.Namespace, profile: Profile | None, *, kubernetes: bool = False
) -> tuple[Recipe, Compiled]:
    """Compile what ``add_recipe`` and ``add_profile`` name."""
    from pipeline.compile import OnCluster, compiled, plan_for
    from sida import recipe
    from sida.data.sources import is_remote

    loaded = recipe.load(args.recipe)
    if profile is not None and args.pipeline == "reproduce":
        is_remote(loaded.dataset)  # fail early: the recipe says where the data are
    cluster = OnCluster(loaded, profile, args.profile or "", args.allow_tags)
    namespace = {"namespace": profile.kfp.namespace if profile else None} if kubernetes else None
    plan = plan_for(args.recipe, loaded, args.pipeline, args.force, profile)
    if profile is not None and args.allow_tags:
        _warn_of_tags(profile, list(plan.tasks()))
    return loaded, compiled(plan, cluster, namespace)


def _warn_of_tags(profile: Profile, steps: list[str]) -> None:
    from pipeline.profile import has_digest

    for field, image in sorted({profile.image_for(step) for step in steps}):
        if image and not has_digest(image):
            print(f"warning: {field} {image} has no digest: it can change under a run", file=sys.stderr)


def publish_recipe(args: argparse.Namespace, recipe: Recipe, profile: Profile) -> str:
    """Return the pipeline's parameter ``recipe``; a user's own recipe is put into the profile's store."""
    from pipeline.compile import recipe_parameter
    from sida.steps.recipes import recipe_key
    from sida.stores import open_store

    parameter, content = recipe_parameter(args.recipe, recipe, profile)
    if content is not None:
        use_store(profile)
        open_store(profile.store).put(recipe_key(parameter), content)
    return parameter


def use_store(profile: Profile) -> None:
    """Work on the profile's store from here; this environment's S3 settings take precedence over those for pods.

    SIDA_PATIENCE is left alone: it is the pods' own, and here the user of the command waits.
    """
    for name, value in profile.variables().items():
        if name == "SIDA_STORE":
            os.environ[name] = value
        elif name != "SIDA_PATIENCE":
            os.environ.setdefault(name, value)


@contextmanager
def using_store(profile: Profile) -> Iterator[None]:
    """Work on the profile's store while the block lasts, as ``use_store`` does."""
    before = dict(os.environ)
    try:
        use_store(profile)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def store_at_hand(profile: Profile) -> Iterator[ObjectStore]:
    """Yield the profile's store for a brief read or write that may fail: a store that is away is not waited for."""
    from sida.patience import impatient
    from sida.stores import open_store

    use_store(profile)
    with impatient():
        yield open_store(profile.store)


def task_line(name: str, state: str, error: str = "") -> str:
    """Return ``distill               RUNNING``."""
    return f"{name:<22}{state}{f'  {error}' if error else ''}".rstrip()
