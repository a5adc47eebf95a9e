"""Records of a run: each step's call as typed fields, so that one step can be repeated, and how the run ended.

    runs/<run id>/steps/<step>.json       what the step was called with, and what came of it
    runs/<run id>/steps/<step>.<item>.json    the same, of a step that the run takes once for each of many recipes
    runs/<run id>/failures/<n>.json       what a step of many inputs was given in place of one that failed
    runs/<run id>/cancel.json             the request to end it (sida.ending)
    runs/<run id>/run.json                how the run ended (sida.ending)
    runs/<run id>/logs/<step>.txt         the end of a step's own log (sida.steps.log)

A record holds data only: no command and no environment. Who repeats a step builds the command from a template and these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sida import layout
from sida.errors import Corrupt, NotFound, UserError
from sida.failures import Failure, parse_failure
from sida.manifests import Manifest, Part, parse_manifest, read_record
from sida.masking import masked
from sida.origin import manifest_key, store_of
from sida.printing import one_line
from sida.process.identity import machine_id
from sida.process.parent import PARENTS
from sida.settings import environment, settings
from sida.stores import open_store
from sida.stores.base import ObjectStore

MESSAGE = 1000  # characters of a failure in a record
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Input(Part):
    """A manifest that a step read: the address of an immutable attempt, and the digest of its result part."""

    address: str
    digest: Sha256


class StepCall(Part):
    """One call of one step of one run."""

    schema_version: Literal[1] = 1
    run: Annotated[str, Field(pattern=f"^{layout.RUN_ID}$")]
    step: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
    version: int
    recipe: str  # a name, or NAME#sha256=... of one in the store
    inputs: dict[str, Input]  # those of a list are scores.00, scores.01, ...
    parameters: dict[str, str]  # what else it was given: attempt, repeat
    image: str  # the container image by digest; empty on a machine of one's own
    store: str  # address of the store that the step wrote to
    started: str  # UTC, ISO 8601
    state: Literal["started", "ran", "reused", "failed"] = "started"
    manifest: str = ""  # address of the result
    digest: str = ""  # of the result
    error: str = ""
    timed_out: bool = False  # it failed because it ran longer than it was allowed to
    item: str = ""  # name of the recipe, where the run takes the step once for each of many
    driver: str = ""  # of a run on a machine of one's own: its process and the machine, "pid@start machine"

    @property
    def name(self) -> str:
        """``score``, or ``score.cifar10-uncond-sid``."""
        return f"{self.step}.{self.item}" if self.item else self.step


class RunEnd(Part):
    """End of a run."""

    schema_version: Literal[1] = 1
    run: Annotated[str, Field(pattern=f"^{layout.RUN_ID}$")]
    recipe: str
    state: str  # SUCCEEDED, FAILED, CANCELLED, TIMED OUT; records of earlier versions hold Kubeflow's own words
    code: int = 0
    message: str = ""  # of the first step that failed
    sure: bool = True  # False: the reason is unknown; a later look may write it again
    ended: str
    steps: dict[str, str]  # step -> state, of those that were started
    standing: str = ""  # the score against the last one of the recipe, in words
    regressed: bool = False
    webhook: str = ""  # what came of the call; empty: there was none to make


# -- written by the step itself


_RUN: ContextVar[str] = ContextVar("run", default="")


def current_run() -> str:
    """Return the run that the step at work belongs to; empty outside of one."""
    return _RUN.get()


def begin(run: str, step: str, version: int, arguments: Mapping[str, Any], item: str = "") -> StepCall | None:
    """Record a call before it is made, so that a step killed without a word can be repeated. None outside of a run.

    ``item`` tells calls of the same step in one run apart. ``arguments`` are those of the step's function: a path of a manifest
    is an input, other text a parameter.
    """
    _RUN.set(run)
    if not run:
        return None
    options = settings()
    store, inputs = open_store(options.store), dict[str, Input]()
    parameters: dict[str, str] = {}
    for name, value in arguments.items():
        if isinstance(value, list):
            inputs |= {f"{name}.{number:02}": _input(store, Path(one), run, number) for number, one in enumerate(value)}
        if name == "recipe" or not isinstance(value, str):
            continue
        if value and (path := Path(value)).is_file():
            inputs[name] = _input(store, path, run)
        else:
            parameters[name] = value
    call = StepCall(
        run=layout.check_run_id(run),
        step=step,
        version=version,
        recipe=str(arguments["recipe"]),
        inputs=inputs,
        parameters=parameters,
        image=options.image,
        store=store.address,
        started=now(),
        item=item,
        driver=_driver(),
    )
    _write(call)
    return call


def _driver() -> str:
    first = environment().get(PARENTS, "").split()[:1]
    return f"{first[0]} {machine_id()}" if first else ""


def _input(store: ObjectStore, path: Path, run: str, number: int = 0) -> Input:
    """Return the address of the manifest in a local file. A failure is kept with the run, in ``store``."""
    content = path.read_bytes()
    digest = digest_of_input(content, str(path))
    if parse_failure(content):
        key = layout.failure_key(run, number)
        store.put(key, content)
    else:
        manifest = parse_manifest(content, str(path))
        store, key = store_of(manifest), manifest_key(manifest)
    return Input(address=store.address_of(key), digest=digest)


def pass_on(run: str, failure: Failure) -> str:
    """Keep a failure with its run, under a number that follows from what it says; return its address."""
    content = to_json(failure)
    store, key = open_store(settings().store), layout.failure_key(run, int(sha256(content).hexdigest()[:12], 16))
    store.put(key, content)
    return store.address_of(key)


def digest_of_input(content: bytes, where: str) -> str:
    """Return the digest of a manifest's result part, or of a failure that was passed on in its place."""
    return sha256(content).hexdigest() if parse_failure(content) else parse_manifest(content, where).digest


def finished(call: StepCall | None, manifest: str, digest: str, reused: bool) -> None:
    """Record that the call made, or reused, this result."""
    _write(call, state="reused" if reused else "ran", manifest=manifest, digest=digest)


def kept(message: str) -> str:
    """Return what is recorded of a failure's message: one line without secrets, that ends somewhere."""
    return one_line(masked(message, environment()), MESSAGE)


def failed(call: StepCall | None, message: str, *, timed_out: bool = False) -> None:
    """Record that the call ended with an error."""
    _write(call, state="failed", error=kept(message), timed_out=timed_out)


def _write(call: StepCall | None, **changes: Any) -> None:
    if call is not None:
        call = call.model_copy(update=changes)
        open_store(settings().store).put(layout.call_key(call.run, call.name), to_json(call))


def now() -> str:
    """Return UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_json(part: Part) -> bytes:
    """Return the record as it lies in the store."""
    return (part.model_dump_json(indent=1) + "\n").encode()


# -- read to repeat a step


def runs(store: ObjectStore) -> list[str]:
    """Return the ids of all recorded runs, in the order in which they began."""
    begun: dict[str, str] = {}
    for key in store.list(layout.RUNS):
        if place := layout.call_at(key):
            started = _call_at(store, key).started
            begun[place[0]] = min(started, begun.get(place[0], started))
    return sorted(begun, key=lambda run: (begun[run], run))


def calls(store: ObjectStore, run: str) -> dict[str, StepCall]:
    """Return every recorded call of a run, by step (``step.item`` if there are many); empty for a run unknown to the store."""
    by_step = {}
    for key in store.list(layout.calls_folder(run)):
        if place := layout.call_at(key):
            by_step[place[1]] = _call_at(store, key)
    return dict(sorted(by_step.items(), key=lambda item: item[1].started))


def manifests(store: ObjectStore, calls: Mapping[str, StepCall]) -> dict[str, Manifest]:
    """Return the results of a run's calls, by step, read from ``store`` wherever it was when they were made.

    Raises UserError for one that this version cannot read, or that is another result than the run recorded; NotFound for one that
    is gone.
    """
    return {step: made_by(store, call) for step, call in calls.items() if call.manifest}


def made_by(store: ObjectStore, call: StepCall) -> Manifest:
    """Return the result of a call, read from ``store``. Raises Corrupt for another one than was recorded, else as ``manifests``."""
    key = made_key(call)
    address = store.address_of(key)
    manifest = parse_manifest(store.read(key), address)
    if call.digest and manifest.digest != call.digest:
        raise Corrupt(
            f"{address}: is another result than run {call.run} recorded ({call.digest[:12]}): submit it again"
        )
    return manifest


def made_key(call: StepCall) -> str:
    """Return the key of the manifest that a call made."""
    return layout.manifest_key_in(call.manifest)


def call_of(store: ObjectStore, run: str, step: str) -> StepCall:
    """Return a step's recorded call, ``step`` or ``step.item``. Raises UserError that says which runs or steps there are."""
    key = layout.call_key(run, step)
    try:
        call = _call_at(store, key)
    except NotFound:
        if there := list(calls(store, run)):
            raise UserError(
                f"run {run} has no record of a step {step!r}: it never started; recorded: {', '.join(there)}"
            ) from None
        raise UserError(f"no run {run!r} in {store.address}: check the id and the store") from None
    if (call.run, call.name) != (run, step):
        raise UserError(f"{store.address_of(key)}: records {call.step} of run {call.run}: somebody moved it; not used")
    return call


def _call_at(store: ObjectStore, key: str) -> StepCall:
    """Return a recorded call. What it names in its own store has the address that it has now: the store may have been moved."""
    call = read_record(store, key, StepCall)

    def now_at(address: str) -> str:
        there, key = layout.place_of(address)
        return store.address_of(key) if there == call.store.rstrip("/") else address

    inputs = {name: Input(address=now_at(given.address), digest=given.digest) for name, given in call.inputs.items()}
    return call.model_copy(update={"store": store.address, "manifest": now_at(call.manifest), "inputs": inputs})


def end_of(store: ObjectStore, run: str) -> RunEnd | None:
    """Return how a run ended, if that was recorded. Raises UserError for a damaged record."""
    with suppress(NotFound):
        return read_record(store, layout.run_end_key(run), RunEnd)
    return None
