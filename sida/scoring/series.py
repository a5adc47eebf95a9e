"""The scores of one recipe over time, so that a new one can be compared with the last.

    series/<step>/<digest of the recipe>/<time>-<key>-<attempt>.json

is written for every published score. The digest ignores fields that change no score (machines, description, gates), so
that the scores of a schedule, of a new generator and of another cluster with the same store form one series.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from sida.errors import AlreadyExists, NotFound
from sida.layout import Attempt, attempt_at, series_folder, series_key
from sida.manifests import Manifest, ScoresResult, digest_of, of_kind, parse_manifest
from sida.origin import manifest_key
from sida.recipe import Recipe
from sida.stores import ObjectStore

_LEFT_OUT: Any = {"execution": True, "description": True, "gate": True, "expected": True, "targets": {"precision"}}


def _digest(recipe: Recipe) -> str:
    return digest_of(recipe.model_dump(mode="json", exclude=_LEFT_OUT))


def remember(store: ObjectStore, recipe: Recipe, manifest: Manifest[ScoresResult]) -> None:
    """Add a published score to its series, unless it is there already."""
    entry = {"manifest": manifest_key(manifest), "key": manifest.about.key}
    with suppress(AlreadyExists):
        store.put_if_absent(_entry(recipe, manifest), json.dumps(entry).encode())


def previous(store: ObjectStore, recipe: Recipe, manifest: Manifest[ScoresResult]) -> Manifest[ScoresResult] | None:
    """Return the last comparable score of another key (another ``repeat``, or another generator), or None.

    Scores are comparable when detector, reference and number of images are the same, and a generator that was distilled is not
    compared with one that was fetched, which is anybody's file that was scored with the recipe.
    """
    folder, mine = series_folder(manifest.about.step, _digest(recipe)), _entry(recipe, manifest)
    for name in reversed([name for name in store.list(folder) if name < mine]):
        try:
            entry = json.loads(store.read(name))
            if entry["key"] == manifest.about.key:
                continue
            address = store.address_of(entry["manifest"])
            earlier = of_kind(parse_manifest(store.read(entry["manifest"]), address), ScoresResult, address)
        except NotFound:
            continue  # it was deleted
        if (manifest_key(earlier), earlier.about.key) != (entry["manifest"], entry["key"]):
            continue  # the entry is not that score's
        if _protocol(earlier.result) == _protocol(manifest.result) and _maker(earlier) in (_maker(manifest), ""):
            return earlier
    return None


def _entry(recipe: Recipe, manifest: Manifest[ScoresResult]) -> str:
    """Return the score's key in the store. Keys sort by time, then by digest: scores of one second have an order."""
    about = manifest.about
    return series_key(Attempt(about.step, about.key, about.attempt), _digest(recipe), about.created)


def _maker(scores: Manifest[ScoresResult]) -> str:
    """Return the step that made the model; empty where an older version did not say."""
    made = attempt_at(scores.about.input_keys.get("model", ""))
    return made.step if made is not None else ""


def _protocol(scores: ScoresResult) -> tuple[object, ...]:
    """Return what scores must have in common to be comparable."""
    return scores.detector_sha256, scores.reference_digest, [(row.model, row.metric, row.n) for row in scores.rows]
