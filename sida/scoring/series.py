"""The scores of one recipe over time, so that a new one can be held against the last.

    series/<step>/<digest of the recipe>/<time>-<key>-<attempt>.json

is written for every published score. The recipe's digest leaves out how the work is laid out on machines and what is only said
of it, so that the scores of a schedule, of a new generator and of another cluster with the same store stand in one series.
"""

from __future__ import annotations

import json
from typing import Any

from sida.errors import AlreadyExists, NotFound
from sida.layout import Attempt, manifest_key, series_folder, series_key
from sida.manifests import Manifest, ScoresResult, digest_of, parse_manifest
from sida.recipe import Recipe
from sida.stores import ObjectStore

_LEFT_OUT: Any = {"execution": True, "description": True, "gate": True, "expected": True, "targets": {"precision"}}


def _digest(recipe: Recipe) -> str:
    return digest_of(recipe.model_dump(mode="json", exclude=_LEFT_OUT))


def remember(store: ObjectStore, recipe: Recipe, manifest: Manifest) -> None:
    """Add a published score to its series; harmless when it is there."""
    about = manifest.about
    entry = {"manifest": manifest_key(about.step, about.key, about.attempt), "key": about.key}
    try:
        store.put_if_absent(_entry(recipe, manifest), json.dumps(entry).encode())
    except AlreadyExists:
        pass


def previous(store: ObjectStore, recipe: Recipe, manifest: Manifest) -> Manifest | None:
    """The last score before this one: of another key (another ``repeat``, or another generator), comparable with it.

    Comparable are scores by the same detector against the same reference, of as many images. None when there is none.
    """
    folder, mine = series_folder(manifest.about.step, _digest(recipe)), _entry(recipe, manifest)
    for name in reversed([name for name in store.list(folder) if name < mine]):
        try:
            entry = json.loads(store.read(name))
            if entry["key"] == manifest.about.key:
                continue
            found = parse_manifest(store.read(entry["manifest"]), store.address_of(entry["manifest"]))
        except NotFound:
            continue  # somebody tidied up
        if _comparable(found, manifest):
            return found
    return None


def _entry(recipe: Recipe, manifest: Manifest) -> str:
    about = manifest.about
    return series_key(Attempt(about.step, about.key, about.attempt), _digest(recipe), about.created)


def _comparable(a: Manifest, b: Manifest) -> bool:
    one, other = a.result, b.result
    if not isinstance(one, ScoresResult) or not isinstance(other, ScoresResult):
        return False
    measured = [
        (r.detector_sha256, r.reference_digest, [(s.model, s.metric, s.n) for s in r.rows]) for r in (one, other)
    ]
    return measured[0] == measured[1]
