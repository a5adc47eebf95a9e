"""Parts common to the verbs that talk to a cluster: from RECIPE and profile to a compiled pipeline, and the profile's store."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline import trainjobs
from pipeline.arguments import ALLOW_TAGS, FORCE, PIPELINE
from pipeline.compile import Compiled, OnCluster, compiled, plan_for, recipe_parameter
from pipeline.engines.base import Engine, Version, engine_of
from pipeline.plan import Plan
from pipeline.profile import Profile, has_digest
from sida import recipe
from sida.data.places import is_remote
from sida.errors import SidaError
from sida.manifests import digest_of
from sida.patience import impatient
from sida.recipe import Recipe
from sida.steps.recipes import forget_schedule, submit_recipe
from sida.stores import ObjectStore, open_store

TO_COMPILE = (PIPELINE, FORCE, ALLOW_TAGS)


@dataclass(frozen=True)
class Uploaded:
    """Pipeline's version on the cluster, and the parameters of its runs."""

    engine: Engine
    recipe: Recipe
    description: str
    version: Version
    parameters: dict[str, str]


def upload(args: argparse.Namespace, profile: Profile, repeat: str, schedule: str = "") -> Uploaded:
    """Compile, check the cluster, and upload unless that version is there; a user's own recipe is put into the profile's store.

    ``schedule`` is the name of the schedule that needs it there for as long as it lasts.
    """
    loaded, pipeline = compile_for(args, profile)
    trainjobs.check_cluster(profile, Plan.of(loaded, "").tasks())
    engine = engine_of(profile)
    parameter, content = recipe_parameter(args.recipe, loaded, profile)
    if content is not None:
        use_store(profile)
        known_as = schedule_id(profile, schedule) if schedule else ""
        submit_recipe(open_store(profile.store), parameter, content, known_as)
    description = " ".join(loaded.description.split())
    version = engine.upload(pipeline, description)
    return Uploaded(engine, loaded, description, version, {"recipe": parameter, "repeat": repeat})


def schedule_id(profile: Profile, name: str) -> str:
    """Return what tells a schedule from those of other clusters and experiments in the records of a store."""
    if profile.engine == "argo":
        return digest_of(["argo", profile.namespace, name])[:16]
    return digest_of([profile.kfp.host, profile.kfp.namespace, profile.kfp.experiment, name])[:16]


def forget_recipes_of(profile: Profile, schedule: str, but: str = "") -> None:
    """Let ``gc`` remove the recipes of a schedule that is gone, or has another recipe now, at address ``but``."""
    try:
        with store_at_hand(profile) as store:
            forget_schedule(store, schedule_id(profile, schedule), but)
    except SidaError as error:
        print(f"note: gc keeps the recipe of {schedule} ({error})", file=sys.stderr)


def compile_for(
    args: argparse.Namespace, profile: Profile | None, *, kubernetes: bool = False
) -> tuple[Recipe, Compiled]:
    """Compile what the arguments RECIPE, --pipeline, --force and --profile name."""
    loaded = recipe.load(args.recipe)
    if profile is not None and args.pipeline == "reproduce":
        is_remote(loaded.dataset)  # fail early: the recipe says where the data are
    cluster = OnCluster(loaded, profile, args.profile or "", args.allow_tags)
    plan = plan_for(args.recipe, loaded, args.pipeline, args.force, profile)
    if profile is not None and args.allow_tags:
        _warn_of_tags(profile, list(plan.tasks()))
    return loaded, compiled(plan, cluster, kubernetes=kubernetes)


def _warn_of_tags(profile: Profile, steps: list[str]) -> None:
    for field, image in sorted({profile.image_for(step) for step in steps}):
        if image and not has_digest(image):
            print(f"warning: {field} {image} has no digest: it can change under a run", file=sys.stderr)


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
    use_store(profile)
    with impatient():
        yield open_store(profile.store)


def task_line(name: str, state: str, error: str = "") -> str:
    """Return ``distill               RUNNING``."""
    return f"{name:<22}{state}{f'  {error}' if error else ''}".rstrip()
