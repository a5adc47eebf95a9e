"""The scores of one recipe over time, so that a new one can be held against the last.

    series/<step>/<digest of the recipe>/<time>-<key>-<attempt>.json

is written for every published score. The recipe's digest leaves out how the work is laid out on machines and what is only said
of it, so that the scores of a schedule, of a new generator and of another cluster with the same store stand in one series.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sida.errors import AlreadyExists, NotFound
from sida.manifests import Manifest, ScoresResult, digest_of, of_kind, parse_manifest
from sida.recipe import Recipe
from sida.stores import ObjectStore

_LEFT_OUT: Any = {"execution": True, "description": True, "gate": True, "expected": True, "targets": {"precision"}}


def series_of(recipe: Recipe, step: str) -> str:
    """The folder of the series."""
    return f"series/{step}/{digest_of(recipe.model_dump(mode='json', exclude=_LEFT_OUT))}"


def remember(store: ObjectStore, recipe: Recipe, manifest: Manifest[ScoresResult]) -> None:
    """Add a published score to its series; harmless when it is there."""
    about = manifest.about
    entry = {"manifest": f"steps/{about.step}/{about.key}/{about.attempt}.json", "key": about.key}
    try:
        store.put_if_absent(_entry(recipe, manifest), json.dumps(entry).encode())
    except AlreadyExists:
        pass


def previous(store: ObjectStore, recipe: Recipe, manifest: Manifest[ScoresResult]) -> Manifest[ScoresResult] | None:
    """The last score before this one: of another key (another ``repeat``, or another generator), comparable with it.

    Comparable are scores by the same detector against the same reference, of as many images. None when there is none.
    """
    folder, mine = series_of(recipe, manifest.about.step), _entry(recipe, manifest)
    for name in reversed([name for name in store.list(f"{folder}/") if name < mine]):
        try:
            entry = json.loads(store.read(name))
            if entry["key"] == manifest.about.key:
                continue
            address = store.address_of(entry["manifest"])
            found = of_kind(parse_manifest(store.read(entry["manifest"]), address), ScoresResult, address)
        except NotFound:
            continue  # somebody tidied up
        if _comparable(found.result, manifest.result):
            return found
    return None


def _entry(recipe: Recipe, manifest: Manifest[ScoresResult]) -> str:
    """Keys sort by time, then by digest, so that two scores of one second have an order."""
    about = manifest.about
    time = re.sub("[^0-9T]", "", about.created.partition("+")[0])
    return f"{series_of(recipe, about.step)}/{time}-{about.key[:16]}-{about.attempt:04d}.json"


def _comparable(one: ScoresResult, other: ScoresResult) -> bool:
    measured = [
        (r.detector_sha256, r.reference_digest, [(s.model, s.metric, s.n) for s in r.rows]) for r in (one, other)
    ]
    return measured[0] == measured[1]
