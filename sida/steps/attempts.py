"""Attempts in the store: find the one that counts, publish a new one, follow a manifest to what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from sida.errors import AlreadyExists, Corrupt, Fenced, NotFound, StoreUnusable, UserError
from sida.layout import attempt_at, latest_key
from sida.manifests import Manifest, Part, digest_of, of_kind, parse_manifest
from sida.origin import manifest_key
from sida.settings import settings
from sida.stores import ObjectStore, open_store
from sida.stores.lease import Lease
from sida.stores.objects import intact

R = TypeVar("R", bound=Part)
R_co = TypeVar("R_co", bound=Part, covariant=True)


@dataclass(frozen=True)
class StepOutcome(Generic[R_co]):
    """Result of a step: the manifest, its address, and whether it existed already."""

    manifest: Manifest[R_co]
    address: str
    reused: bool


def key_of(
    step: str, version: int, parameters: Mapping[str, Any], inputs: Mapping[str, Manifest[Part]], repeat: str
) -> str:
    """Return a step's key: 64 hex digits."""
    digests = {name: manifest.digest for name, manifest in inputs.items()}
    return digest_of(key_parts(step, version, parameters, digests, repeat))


def key_parts(
    step: str, version: int, parameters: Mapping[str, Any], digests: Mapping[str, str], repeat: str
) -> list[Any]:
    """Return what a step's key is the digest of."""
    return [step, version, dict(parameters), dict(digests), repeat]


def carried(manifest: Manifest[Part], name: str, kind: type[R]) -> Manifest[R]:
    """Return the manifest that ``manifest`` was made from, under the name that its step gave it.

    So an input that another one carries need not be passed too. Raises UserError when the manifest does not say, when the one it
    names is gone, or is another result or of another kind.
    """
    store, maker = open_store(settings().store), manifest.about.step
    key = manifest.about.input_keys.get(name, "")
    if not key:
        raise UserError(f"{manifest_key(manifest)} does not say where its {name} lies: run {maker} again")
    folder = key.rpartition("/")[0]
    latest = f"{folder}/{_latest(store, folder)}.json"  # the same result, where the attempt itself was collected
    for place in dict.fromkeys((key, latest)):
        try:
            source = parse_manifest(store.read(place), store.address_of(place))
        except (NotFound, Corrupt):
            continue
        if source.digest == manifest.about.inputs.get(name):
            return of_kind(source, kind, store.address_of(place))
    raise UserError(f"{store.address_of(key)}, the {name} that {maker} used, is gone or damaged: submit the run again")


def publish(
    store: ObjectStore, lease: Lease, folder: str, number: int, manifest: Callable[[int], Manifest[R]]
) -> StepOutcome[R]:
    """Publish an attempt under the lease, which makes it the one that counts; ``manifest`` makes that of a number.

    A writer that was taken over while it published may have used the number: the next one is taken. Raises Fenced in such a writer.
    """
    while True:
        mine = manifest(number)
        attempt_key = manifest_key(mine)
        try:
            lease.guarded(partial(store.put_if_absent, attempt_key, mine.to_json()))
            break
        except AlreadyExists:
            lease.check()
            with suppress(Corrupt):  # a damaged one keeps its number
                if parse_manifest(store.read(attempt_key), store.address_of(attempt_key)).digest == mine.digest:
                    break
            number = next_number(store, folder)
    with suppress(Fenced):  # the attempt is there
        lease.guarded(lambda: _point(store, folder))
    return StepOutcome(mine, store.address_of(attempt_key), reused=False)


def _point(store: ObjectStore, folder: str) -> None:
    """Have ``latest`` name the newest attempt, one that is published meanwhile too."""
    pointed = None
    while (newest := _latest(store, folder)) != pointed:
        store.put(latest_key(folder), str(newest).encode())
        pointed = newest


def next_number(store: ObjectStore, folder: str) -> int:
    """Return the number of the next attempt."""
    return (_latest(store, folder) or 0) + 1


def _latest(store: ObjectStore, folder: str) -> int | None:
    """Return the attempt that counts, the newest one: the file ``latest`` may be damaged, or a killed writer's."""
    return max((attempt.number for key in store.list(f"{folder}/") if (attempt := attempt_at(key))), default=None)


def find(
    store: ObjectStore, folder: str, code: Callable[[], str], note: Callable[[str], None]
) -> StepOutcome[Any] | None:
    """Return the published result, if it and all its objects are still there as published; else say why they are made again."""
    number = _latest(store, folder)
    if number is None:
        return None
    address = store.address_of(f"{folder}/{number}.json")
    try:
        manifest = parse_manifest(store.read(f"{folder}/{number}.json"), address)
    except NotFound:
        return None
    except StoreUnusable:
        raise
    except UserError:  # damaged, or of another schema
        note(f"{address} is damaged and set aside: making its result again")
        return None
    for ref in manifest.objects():
        try:
            whole = intact(store, ref, manifest.about.etags.get(ref.key))
        except NotFound:
            note(f"{ref.name} is gone from the store: making it again")
            return None
        if not whole:
            note(f"{ref.name} changed in the store since {address}: making it again")
            return None
    if manifest.about.code != code():
        note("reused a result of another version of this step's code (--force makes it anew)")
    return StepOutcome(manifest, address, reused=True)
