"""Steps: keyed, immutable attempts, reuse, one writer at a time.

A step is a function decorated with :func:`step`. Its key is the sha256 of step name, version, the parameters that matter to it,
the digests of its inputs and, where it has one, ``repeat``. Its results live under

    steps/<name>/<key>/<attempt>.json     an attempt's manifest, created once, never changed
    steps/<name>/<key>/latest             the number of the attempt that counts

so that a second run, a KFP retry and a kubectl rerun are all safe and cheap. ``attempt="new"`` makes a new attempt.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sida import progress, records
from sida.errors import AlreadyExists, Corrupt, Fenced, NotFound, SidaError, TimedOut, UserError
from sida.lease import Lease, acquire
from sida.manifests import About, Manifest, digest_of, parse_manifest
from sida.passed_on import Failure, first_failure
from sida.passed_on import write as write_failure
from sida.provenance import code_digest, machine
from sida.recipe import Recipe, travelling
from sida.recipe import load as load_recipe
from sida.recipe import parse as parse_recipe
from sida.settings import settings
from sida.step_log import kept as kept_log
from sida.stores import ObjectStore, open_store
from sida.stores.base import ObjectRef, object_key, put_object


@dataclass(frozen=True)
class Step:
    """A step's identity: a new ``version`` means that equal inputs give another result."""

    name: str
    version: int
    sources: tuple[str, ...]  # files and folders whose code decides the result

    def code(self) -> str:
        """Digest of the step's own code."""
        return code_digest(self.sources)


STEPS: dict[str, Step] = {}

# What the pipeline's parameter ``repeat`` may say beside any text of one's own.
REUSE = "reuse"  # scores that are there are taken
SCHEDULED = "scheduled"  # measured anew, under the time for which the run was planned


@dataclass(frozen=True)
class Published:
    """A step's result: the manifest, its address, and whether it was there already."""

    manifest: Manifest
    address: str
    reused: bool


class Context:
    """What a running step is given: its store, key, attempt and lease."""

    def __init__(self, step: Step, store: ObjectStore, key: str, attempt: int, lease: Lease) -> None:
        self.step, self.store, self.key, self.attempt, self.lease = step, store, key, attempt, lease
        self.notes: dict[str, str | float] = {}

    def put(self, source: bytes | Path, name: str) -> ObjectRef:
        """Store an object; refused when another writer has taken over the key."""
        return self.lease.guarded(lambda: put_object(self.store, source, name))


Produce = Callable[[Context], Any]


def step(name: str, *, version: int, sources: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a step function. The function receives ``context_of`` as first argument and returns ``Published``.

    ``context_of(parameters=..., inputs=..., produce=..., attempt=..., repeat=...)`` applies the key rules.
    """
    described = Step(name, version, sources)
    STEPS[name] = described

    def decorate(function: Callable[..., Published]) -> Callable[..., Published]:
        @functools.wraps(function)
        def run(**arguments: Any) -> Published:
            started = time.time()
            progress.step_started(name)
            if isinstance(arguments["recipe"], str):
                arguments["recipe"] = recipe_at(arguments["recipe"])
            recipe = arguments["recipe"]
            published = function(functools.partial(_reuse_or_produce, described, recipe), **arguments)
            state = "reused" if published.reused else "ran"
            progress.step_finished(name, state, time.time() - started, published.address)
            return published

        run.step = described  # type: ignore[attr-defined]
        return run

    return decorate


def key_of(described: Step, parameters: Mapping[str, Any], inputs: Mapping[str, Manifest], repeat: str) -> str:
    """The step's key: 64 hex digits."""
    digests = {name: manifest.digest for name, manifest in inputs.items()}
    return digest_of([described.name, described.version, dict(parameters), digests, repeat])


def _reuse_or_produce(
    described: Step,
    recipe: Any,
    *,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    produce: Produce,
    attempt: str = "",
    repeat: str = "",
) -> Published:
    if attempt not in ("", "new"):
        raise UserError(f"attempt {attempt!r}: give 'new' for a new attempt, or nothing to reuse")
    here = settings()
    store = open_store(here.store)
    key = key_of(described, parameters, inputs, repeat)
    folder = f"steps/{described.name}/{key}"
    if not attempt and (found := _find(store, described, folder)):
        return found

    def note(text: str) -> None:
        progress.note(described.name, text)

    with acquire(store, folder, ttl=here.lease_seconds, wait=here.lease_wait, note=note) as lease:
        if not attempt and (found := _find(store, described, folder)):  # made while we waited
            return found
        number = max(_attempts(store, folder), default=0) + 1
        context = Context(described, store, key, number, lease)
        started, code = time.time(), described.code()  # the code that runs now, whatever is edited meanwhile
        result = produce(context)
        about = About(
            step=described.name,
            key=key,
            attempt=number,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - started, 3),
            store=store.address,
            etags={},
            code=code,
            inputs={name: manifest.digest for name, manifest in inputs.items()},
            parameters=dict(parameters),
            machine=machine(),
            notes=context.notes,
            input_keys={name: manifest_key(manifest) for name, manifest in inputs.items()},
            recipe=put_recipe(store, recipe) if isinstance(recipe, Recipe) else None,
        )
        manifest = Manifest(result=result, about=about)
        etags = {ref.key: store.stat(ref.key).etag for ref in manifest.objects()}
        manifest = manifest.model_copy(update={"about": about.model_copy(update={"etags": etags})})
        manifest = manifest.model_copy(update={"checksum": manifest.expected_checksum()})
        return _publish(store, lease, folder, number, manifest)


def manifest_key(manifest: Manifest) -> str:
    """Where a published manifest lies in its store."""
    return f"steps/{manifest.about.step}/{manifest.about.key}/{manifest.about.attempt}.json"


def carried(manifest: Manifest, name: str) -> Manifest:
    """The manifest that ``manifest`` was made from, under the name that its step gave it: what is known is not handed on twice.

    Raises UserError when the manifest does not say, or what it names is gone or another result.
    """
    store, maker = open_store(settings().store), manifest.about.step
    key = manifest.about.input_keys.get(name, "")
    if not key:
        raise UserError(f"{manifest_key(manifest)} does not say where its {name} lies: run {maker} again")
    folder = key.rpartition("/")[0]
    latest = f"{folder}/{_latest(store, folder)}.json"  # the same result, where the attempt itself was collected
    for there in dict.fromkeys((key, latest)):
        try:
            found = parse_manifest(store.read(there), store.address_of(there))
        except NotFound:
            continue
        if found.digest == manifest.about.inputs.get(name):
            return found
    raise UserError(f"{store.address_of(key)}, the {name} that {maker} used, is gone: submit the run again")


def _publish(store: ObjectStore, lease: Lease, folder: str, number: int, manifest: Manifest) -> Published:
    attempt_key = f"{folder}/{number}.json"
    try:
        lease.guarded(lambda: store.put_if_absent(attempt_key, manifest.to_json()))
    except AlreadyExists:
        there = parse_manifest(store.read(attempt_key), store.address_of(attempt_key))
        if there.digest != manifest.digest:
            raise SidaError(
                f"{store.address_of(attempt_key)}: another process published this attempt with another result; run again"
            ) from None
    try:
        lease.guarded(lambda: store.put(f"{folder}/latest", str(number).encode()))
    except Fenced:
        pass  # the attempt is there; which one counts is its successor's to say
    return Published(manifest, store.address_of(attempt_key), reused=False)


def _attempts(store: ObjectStore, folder: str) -> list[int]:
    names = (key.rsplit("/", 1)[-1] for key in store.list(f"{folder}/"))
    return [int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit() and "." in name]


def _latest(store: ObjectStore, folder: str) -> int | None:
    """The attempt that counts; the newest one when a killed writer did not get to moving the pointer."""
    try:
        return int(store.read(f"{folder}/latest"))
    except NotFound:
        return max(_attempts(store, folder), default=None)
    except ValueError:
        return max(_attempts(store, folder), default=None)


def _find(store: ObjectStore, described: Step, folder: str) -> Published | None:
    """The published result, if all its objects are still there as published."""
    number = _latest(store, folder)
    if number is None:
        return None
    address = store.address_of(f"{folder}/{number}.json")
    try:
        manifest = parse_manifest(store.read(f"{folder}/{number}.json"), address)
    except NotFound:
        return None
    for ref in manifest.objects():
        try:
            stat = store.stat(ref.key)
        except NotFound:
            progress.note(described.name, f"{ref.name} is gone from the store: making it again")
            return None
        if (stat.size, stat.etag) != (ref.size, manifest.about.etags.get(ref.key)):
            progress.note(described.name, f"{ref.name} changed in the store since {address}: making it again")
            return None
    if manifest.about.code != described.code():
        progress.note(described.name, "reused a result of another version of this step's code (--force makes it anew)")
    return Published(manifest, address, reused=True)


# --- recipes travel as objects ---------------------------------------------------------------------------------------


def recipe_address(recipe: Recipe) -> str:
    """Store the resolved recipe; how it is named from now on: ``digits#sha256=DIGEST``."""
    return f"{recipe.name}#sha256={put_recipe(open_store(settings().store), recipe).sha256}"


def put_recipe(store: ObjectStore, recipe: Recipe) -> ObjectRef:
    """Store the resolved recipe."""
    return put_object(store, travelling(recipe), "recipe.json")


def recipe_key(text: str) -> str:
    """Where in a store the recipe lies that travels as ``NAME#sha256=DIGEST``; empty for one by name or file.

    Older records have the key itself in place of the name. Raises UserError for what is no digest.
    """
    name, mark, digest = text.partition("#sha256=")
    if not mark:
        return ""
    return name if name.startswith("objects/") else object_key(digest, "recipe.json")


def recipe_at(text: str, store: ObjectStore | None = None) -> Recipe:
    """The recipe that was stored as ``NAME#sha256=DIGEST``, that of a name, or of a file's path."""
    key, digest = recipe_key(text), text.rpartition("#sha256=")[2]
    if not key:
        return load_recipe(text)
    content = (store or open_store(settings().store)).read(key)
    if hashlib.sha256(content).hexdigest() != digest:
        raise Corrupt(f"recipe {key}: its sha256 is not {digest}: submit the run again")
    return parse_recipe(json.loads(content), key)


# --- between components and steps -----------------------------------------------------------------------------------


def execute(
    function: Callable[..., Published],
    output: Any,
    *,
    component: str = "",
    run_id: str = "",
    **arguments: Any,
) -> Published:
    """Run a step for a component: write the manifest to ``output.path``, its address and digest to the metadata.

    Metrics get no such metadata: Kubeflow's pages show what is there as numbers, and the manifest says the same.

    The call is recorded under the run it belongs to (``run_id``, or SIDA_RUN), before and after, so that ``rerun`` can repeat it;
    what it wrote to stdout and stderr is kept beside that (``sida.step_log``). A SidaError becomes one line for the user and the
    exit status that it names.
    """
    name = function.step.name  # type: ignore[attr-defined]
    try:
        with kept_log(run_id or settings().run, component or name):
            published = _recorded(function, component, run_id, arguments, {})
    except (SidaError, OSError) as error:
        message, exit_code = _in_a_line(error)
        progress.error(name, message, exit_code)
        raise SystemExit(exit_code) from error
    return _delivered(published, output)


def execute_one_of_many(
    function: Callable[..., Published],
    output: Any,
    *,
    one_of_many: bool,
    component: str = "",
    run_id: str = "",
    **arguments: Any,
) -> Published | None:
    """As ``execute``; with ``one_of_many`` a failure is passed on in place of the result, and the run goes on without it.

    Then the call is recorded under the step's and the recipe's names, so that those of other recipes stay beside it.
    ``component`` is the component's name where it is not the step's.
    """
    if not one_of_many:
        return execute(function, output, component=component, run_id=run_id, **arguments)
    name = function.step.name  # type: ignore[attr-defined]
    failure = first_failure(arguments.values())
    if failure is None:
        item = arguments["recipe"]
        try:
            item = recipe_at(arguments["recipe"]).name
            more = {"one_of_many": "true"}
            with kept_log(run_id or settings().run, f"{component or name}.{item}"):
                return _delivered(_recorded(function, component, run_id, arguments, more, item), output)
        except Exception as error:  # whatever it is, it is this item's: the end of the run says it
            if not isinstance(error, SidaError):
                traceback.print_exc()
            message, exit_code = _in_a_line(error, strict=False)
            failure = Failure(item=item, recipe=arguments["recipe"], step=name, message=message, exit_code=exit_code)
        progress.note(name, f"{item} failed, the others go on: {failure.message}")
    write_failure(failure, output.path)
    return None


def _recorded(
    function: Callable[..., Published],
    component: str,
    run_id: str,
    arguments: dict[str, Any],
    more: dict[str, str],
    item: str = "",
) -> Published:
    described: Step = function.step  # type: ignore[attr-defined]
    name = component or described.name
    progress.work_on(name)
    if "scheduled" in arguments:
        scheduled = arguments.pop("scheduled")
        arguments["repeat"] = repetition(arguments["repeat"], scheduled)
    call = records.begin(run_id or settings().run, name, described.version, arguments | more, item)
    try:
        published = function(**arguments)
    except Exception as error:
        message, _ = _in_a_line(error, strict=False)
        try:
            records.failed(call, message, timed_out=isinstance(error, TimedOut))
        except (SidaError, OSError) as lost:  # the store may be what failed: its own error is told
            progress.note(name, f"its failure is not recorded: {lost}")
        raise
    records.finished(call, published.address, published.manifest.digest, published.reused)
    return published


def repetition(repeat: str, scheduled: str) -> str:
    """The text that tells one measurement from another; ``scheduled`` is the time for which Kubeflow planned the run.

    Raises SidaError for a time that Kubeflow left as a placeholder: all firings of a schedule would be one measurement.
    """
    if repeat == REUSE:
        return ""
    if repeat != SCHEDULED or not scheduled:
        return repeat
    if "{{" in scheduled:
        raise SidaError(
            f"Kubeflow did not fill in the time of this run ({scheduled}), so that a schedule would measure only once: "
            f"Kubeflow Pipelines 2.17 or newer is needed, or submit with --repeat TEXT"
        )
    return scheduled


def _in_a_line(error: Exception, *, strict: bool = True) -> tuple[str, int]:
    """(message, exit status). ``strict``: what is no user's mistake is raised again."""
    if isinstance(error, SidaError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in (28, 122):  # disk full, quota
        place = error.filename or "temporary files"
        return f"disk full while writing {place}: free space, or set SIDA_STORE or TMPDIR", 2
    if strict:
        raise error
    return f"{type(error).__name__}: {' '.join(str(error).split())}", 1


def _delivered(published: Published, output: Any) -> Published:
    path = Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(published.manifest.to_json())
    if getattr(output, "schema_title", "") != "system.Metrics":
        output.metadata.update(address=published.address, digest=published.manifest.digest)
    return published
