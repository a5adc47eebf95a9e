"""Recipes travel as objects of the store, by digest: ``digits#sha256=DIGEST``."""

from __future__ import annotations

import hashlib
import json

from sida import layout
from sida.errors import Corrupt, UserError
from sida.layout import object_key
from sida.manifests import Manifest, Part
from sida.recipe import Recipe, traveling
from sida.recipe import load as load_recipe
from sida.recipe import parse as parse_recipe
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.base import ObjectRef
from sida.stores.objects import put_object


def recipe_address(recipe: Recipe) -> str:
    """Store the resolved recipe for a run; return how it is named from now on, ``digits#sha256=DIGEST``."""
    content = traveling(recipe)
    address = f"{recipe.name}#sha256={hashlib.sha256(content).hexdigest()}"
    submit_recipe(open_store(settings().store), address, content)
    return address


def submit_recipe(store: ObjectStore, address: str, content: bytes, schedule: str = "") -> None:
    """Store the recipe of that address, and who needs it: ``gc`` would not know of a run that has no step yet, or of a schedule.

    ``schedule`` is the digest of a schedule's place and name.
    """
    digest = address.rpartition("#sha256=")[2]
    record = layout.schedule_record_key(digest, schedule) if schedule else layout.submission_key(digest)
    store.put(record, json.dumps({"recipe": address}, indent=1).encode())
    put_object(store, content, "recipe.json")


def forget_schedule(store: ObjectStore, schedule: str, but: str = "") -> None:
    """Remove the schedule's records of recipes, except that of the recipe at the address ``but``."""
    kept = layout.schedule_record_key(but.rpartition("#sha256=")[2], schedule)
    for key in store.list(layout.RECIPES):
        if key.endswith(f"/schedule-{schedule}.json") and key != kept:
            store.delete(key)


def put_recipe(store: ObjectStore, recipe: Recipe) -> ObjectRef:
    """Store the resolved recipe."""
    return put_object(store, traveling(recipe), "recipe.json")


def recipe_key(text: str) -> str:
    """Return the key of the object that holds the recipe named ``NAME#sha256=DIGEST``; empty for a recipe by name or file.

    Older records have the key itself in place of the name. Raises UserError for a malformed digest.
    """
    name, mark, digest = text.partition("#sha256=")
    if not mark:
        return ""
    return name if name.startswith("objects/") else object_key(digest, "recipe.json")


def recipe_at(text: str, store: ObjectStore | None = None) -> Recipe:
    """Return the recipe that was stored as ``NAME#sha256=DIGEST``, that of a name, or of a file's path."""
    key, digest = recipe_key(text), text.rpartition("#sha256=")[2]
    if not key:
        return load_recipe(text)
    content = (store or open_store(settings().store)).read(key)
    if hashlib.sha256(content).hexdigest() != digest:
        raise Corrupt(f"recipe {key}: its sha256 is not {digest}: submit the run again")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"recipe {key}: is no JSON, so it is no recipe: submit the run again") from error
    if not isinstance(fields, dict):
        raise Corrupt(f"recipe {key}: is no mapping of fields, so it is no recipe: submit the run again")
    return parse_recipe(fields, key)


def recipe_of(store: ObjectStore, manifest: Manifest[Part]) -> Recipe:
    """Return the recipe that a step was called with. Raises Corrupt, NotFound, UserError."""
    ref = manifest.about.recipe
    if ref is None:
        raise UserError(f"{manifest.about.step}: an older version made it and recorded no recipe: run it again")
    return recipe_at(f"{ref.key}#sha256={ref.sha256}", store)
