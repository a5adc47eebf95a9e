"""The store that a manifest was read from: its objects lie beside it. Stores are moved, copied and restored.

What ``about.store`` says is where the manifest was written once.
"""

from __future__ import annotations

from contextlib import suppress

from sida import layout
from sida.errors import Corrupt, NotFound
from sida.manifests import Manifest, Part, parse_manifest
from sida.settings import settings
from sida.stores import ObjectStore, open_store


def manifest_key(manifest: Manifest[Part]) -> str:
    """Return the key of a published manifest in its store."""
    about = manifest.about
    return layout.manifest_key(about.step, about.key, about.attempt)


def store_of(manifest: Manifest[Part], place: str = "") -> ObjectStore:
    """Return the store that a manifest was read from; ``place`` is its address there, or its absolute path.

    A copy that lies in no store is taken for what it is a copy of: in SIDA_STORE, else in the store that it was written to.
    """
    if address := layout.place_of(place)[0]:
        return open_store(address)
    own = open_store(settings().store)
    key = manifest_key(manifest)
    with suppress(NotFound, Corrupt):
        if parse_manifest(own.read(key), own.address_of(key)).to_json() == manifest.to_json():
            return own
    return open_store(manifest.about.store)
