"""Steps, and one run of a step."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from sida import progress
from sida.errors import UserError
from sida.failures import failure_in
from sida.layout import step_folder
from sida.manifests import About, Manifest, Part, Selected, kind_of, objects_in, of_kind, read_manifest
from sida.origin import manifest_key
from sida.recipe import Recipe
from sida.settings import settings
from sida.steps.attempts import StepOutcome, find, key_of, next_number, publish
from sida.steps.garbage import collecting, let_collection_end
from sida.steps.provenance import code_digest, machine
from sida.steps.recipes import put_recipe, recipe_at
from sida.stores import ObjectStore, open_store
from sida.stores.base import ObjectRef
from sida.stores.lease import Lease, acquire
from sida.stores.objects import put_object

R = TypeVar("R", bound=Part)
R_co = TypeVar("R_co", bound=Part, covariant=True)


class From:
    """Steps that an input may come from, in its annotation; the first of them that a run has counts."""

    def __init__(self, *steps: str) -> None:
        self.steps = steps


@dataclass(frozen=True)
class StepInput:
    """Manifest that a step takes."""

    name: str
    kind: type[Part]  # of its result
    makers: tuple[str, ...]  # steps whose result it may be
    many: bool = False  # a list of them
    optional: bool = False


class Reused(Exception):
    """The result is published already: the step ends."""

    def __init__(self, outcome: StepOutcome[Any]) -> None:
        super().__init__(outcome.address)
        self.outcome = outcome


class Unpublished(Exception):
    """The result is not published yet, and nobody wants to make it now."""


@dataclass(frozen=True)
class Made(Generic[R_co]):
    """A published result with all that it follows from."""

    store: ObjectStore
    recipe: Recipe
    about: About
    inputs: dict[str, Manifest[Any]]
    result: R_co


class StepRun(ExitStack):
    """One run of a step: its recipe and store at once; key, attempt, inputs and lease, held to the end, from :meth:`claim` on."""

    key: str
    attempt: int
    lease: Lease
    inputs: dict[str, Manifest[Any]]

    def __init__(
        self,
        step: Step[Any],
        recipe: Recipe,
        store: ObjectStore,
        *,
        anew: bool = False,
        repeat: str = "",
        only_look: bool = False,
    ) -> None:
        super().__init__()
        self.step, self.recipe, self.store, self.anew, self.repeat = step, recipe, store, anew, repeat
        self._only_look = only_look
        self.notes: dict[str, str | float] = {}
        self.selections: tuple[Selected, ...] = ()
        self._noted: set[str] = set()

    def claim(self, parameters: dict[str, Any] | None = None, /, **inputs: Manifest[Any]) -> None:
        """Become the one process that makes the result of these parameters and inputs, which decide the step's key.

        Parameters that the step ``asks`` its recipe for need not be given. Where the result is published already, or another
        process publishes it while this one waits for the lease, the step ends here with that result: nothing after the call
        is run.
        """
        self._parameters, self.inputs = self.step.asks(self.recipe) | (parameters or {}), inputs
        self.key = key_of(self.step.name, self.step.version, self._parameters, inputs, self.repeat)
        if not collecting(self.store):
            self._reuse()
        if self._only_look:
            raise Unpublished(self.folder)
        here = settings()
        lease = acquire(self.store, self.folder, ttl=here.lease_seconds, wait=here.lease_wait, note=self.note)
        self.lease = self.enter_context(lease)
        let_collection_end(self.store, self.note)
        self._reuse()
        self.attempt = next_number(self.store, self.folder)
        self._started = time.time()
        self._code = self.step.code()  # the code that runs now, whatever is edited meanwhile

    @property
    def folder(self) -> str:
        """Folder of this key's attempts in the store."""
        return step_folder(self.step.name, self.key)

    def note(self, text: str) -> None:
        """Tell the user something about this step in a line."""
        progress.note(self.step.name, text)

    def _note_once(self, text: str) -> None:
        """Tell it the first time: the store is looked into before and after the wait for the lease."""
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def put(self, source: bytes | Path, name: str) -> ObjectRef:
        """Store an object; refused when another writer has taken over the key."""
        return self.lease.guarded(lambda: put_object(self.store, source, name))

    def _reuse(self) -> None:
        if not self.anew and (outcome := find(self.store, self.folder, self.step.code, self._note_once)):
            raise Reused(outcome)

    def publish(self, result: R) -> StepOutcome[R]:
        """Publish the result as an attempt of the claimed key."""
        about = About(
            step=self.step.name,
            key=self.key,
            attempt=self.attempt,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - self._started, 3),
            store=self.store.address,
            etags={ref.key: self.store.stat(ref.key).etag for ref in objects_in(result)},
            code=self._code,
            inputs={name: manifest.digest for name, manifest in self.inputs.items()},
            parameters=self._parameters,
            machine=machine(),
            notes=self.notes,
            input_keys={name: manifest_key(manifest) for name, manifest in self.inputs.items()},
            recipe=put_recipe(self.store, self.recipe),
            selections=self.selections,
        )

        def numbered(attempt: int) -> Manifest[R]:
            manifest = Manifest(result=result, about=about.model_copy(update={"attempt": attempt}))
            return manifest.model_copy(update={"checksum": manifest.expected_checksum()})

        return publish(self.store, self.lease, self.folder, self.attempt, numbered)


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """Facts about a step that its function does not say."""

    version: int  # a new one means that equal inputs give another result
    sources: tuple[str, ...]  # files and folders whose code decides the result
    output: str = ""  # the result's name, where it is not the manifest's kind
    launches: bool = False  # its heavy part runs in processes of their own, one for each accelerator
    measures: bool = False  # it takes ``repeat``
    per_recipe: bool = False  # a run may take it once for each of many recipes
    choose: Callable[[Recipe], Step[Any]] | None = None  # the step that does it for a recipe
    asks: Callable[[Recipe], dict[str, Any]] = (
        lambda recipe: {}
    )  # parameters that the recipe alone decides: parts of the key
    # Fields of the manifest that repeat or follow from others, what it was made from, and its recipe, by path ("detector.sha256").
    repeats: Callable[[Made[Any]], dict[str, Any]] = lambda made: {}
    # Inputs that it takes from another one: name -> (that input, the name there).
    carries: dict[str, tuple[str, str]] = field(default_factory=dict, hash=False)
    after: Callable[[StepRun, Manifest[Any]], None] | None = None  # called when the result is there, whoever made it


class step(StepFacts):
    """Decorator that makes a step of a function."""

    def __call__(self, function: Callable[..., R]) -> Step[R]:
        """Return the step."""
        return Step(function=function, **vars(self))


@dataclass(frozen=True, kw_only=True)
class Step(StepFacts, Generic[R]):
    """Function of a step with the facts that a run needs. Called, it runs or reuses."""

    function: Callable[..., R]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def output_name(self) -> str:
        """Name of the result: the manifest's kind, unless the step has another."""
        return self.output or kind_of(self.result)

    @cached_property
    def _types(self) -> dict[str, Any]:
        return get_type_hints(self.function, include_extras=True)

    @cached_property
    def result(self) -> type[R]:
        """Type of what the step makes."""
        return self._types["return"]

    @cached_property
    def inputs(self) -> dict[str, StepInput]:
        """The manifests that the step takes, by parameter's name and in order."""
        parameters = inspect.signature(self.function).parameters
        inputs: dict[str, StepInput] = {}
        for name, hint in self._types.items():
            if get_origin(hint) is Annotated:
                annotation, source = get_args(hint)
                optional = parameters[name].default is not inspect.Parameter.empty
                many = get_origin(annotation) is list
                inputs[name] = StepInput(name, _result_in(annotation), source.steps, many, optional)
        return inputs

    def code(self) -> str:
        """Return the digest of the step's own code."""
        return code_digest(self.sources)

    def __call__(
        self, *, recipe: Recipe | str, attempt: str = "", repeat: str = "", **arguments: Any
    ) -> StepOutcome[R]:
        """Run the step or reuse its result.

        ``recipe`` may be an address or a name; inputs are manifests or paths of theirs. ``attempt`` "new" makes a new attempt,
        another text for ``repeat`` another measurement. Raises UserError for anything that a user can mend.
        """
        started = time.time()
        progress.step_started(self.name)
        if attempt not in ("", "new"):
            raise UserError(f"attempt {attempt!r}: give 'new' for a new attempt, or nothing to reuse")
        outcome = self._outcome(recipe, arguments, anew=attempt == "new", repeat=repeat)
        progress.step_finished(self.name, "reused" if outcome.reused else "ran", time.time() - started, outcome.address)
        return outcome

    def published(self, *, recipe: Recipe | str, repeat: str = "", **arguments: Any) -> StepOutcome[R] | None:
        """Return the result if it is published already, as a call would reuse it; None where the call would make it."""
        try:
            return self._outcome(recipe, arguments, repeat=repeat, only_look=True)
        except Unpublished:
            return None

    def _outcome(self, recipe: Recipe | str, arguments: dict[str, Any], **how: Any) -> StepOutcome[R]:
        loaded = recipe_at(recipe) if isinstance(recipe, str) else recipe
        opened = {name: _opened(taken, arguments.get(name)) for name, taken in self.inputs.items()}
        with StepRun(self, loaded, open_store(settings().store), **how) as run:
            try:
                outcome = run.publish(self.function(run, loaded, **arguments | opened))
            except Reused as reused:
                outcome = reused.outcome
        if self.after is not None:
            self.after(run, outcome.manifest)
        return outcome


def _result_in(annotation: Any) -> type[Part]:
    """Return the result's type in ``Manifest[TeacherResult]``, wherever it stands in an annotation."""
    if hasattr(annotation, "__pydantic_generic_metadata__"):
        return annotation.__pydantic_generic_metadata__["args"][0]
    return next(filter(None, map(_result_in, get_args(annotation))))


def _opened(taken: StepInput, given: Any) -> Any:
    """Return the manifests of an input; in a list, a failure that was passed on stays one."""
    if taken.many:
        return [failure_in(one) or _manifest(taken, one) for one in given]
    return None if taken.optional and not given else _manifest(taken, given)


def _manifest(taken: StepInput, given: str | Path | Manifest[Part]) -> Manifest[Part]:
    if isinstance(given, Manifest):
        return of_kind(given, taken.kind, taken.name)
    return read_manifest(given, taken.kind)
