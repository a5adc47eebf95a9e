"""Check that a score still rests on what it says: hash the manifests and objects under it again, or score again from them.

score -> model (generator -> teacher, ...), data set, reference (detector, published file), the recipe of every step, its code,
and the seeds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from sida.addresses import redact
from sida.errors import Corrupt, NotFound, SidaError, UserError
from sida.layout import attempt_at, object_key, place_of, step_folder
from sida.manifests import Manifest, ReferenceResult, Score, ScoresResult, digest_of, parse_manifest
from sida.printing import one_line
from sida.recipe import Recipe
from sida.registry import EVERY_STEP
from sida.scoring.interval import half_width
from sida.steps import Made, Step
from sida.steps.attempts import key_parts
from sida.steps.recipes import recipe_of
from sida.stores import ObjectStore, open_store
from sida.stores.base import ObjectRef
from sida.stores.objects import verify_object

DEEPEST = 20  # manifests below each other: a run has seven
LARGEST_RECIPE = 1 << 20  # bytes: ours have 5 KiB
_NO_STEP = "which no step writes: it was changed; run its step again"
ROUNDING, ROUNDING_OF_ZERO = 1e-6, 1e-9  # of numbers that follow from others: means, spreads, intervals
VERSIONS = range(1, 33)  # that a step of ours may have
TOLERANCE = 1e-3  # of the value: float32 kernels of another machine; the same machine gives the same bits


@dataclass(frozen=True)
class Link:
    """Link of the chain, one object. ``problem`` is empty when it is what it should be."""

    what: str  # "score/model: weights.safetensors"
    address: str
    problem: str = ""


@dataclass
class Chain:
    """Links below a score, in the order in which they were met, and remarks that are no faults."""

    root: Manifest
    store: ObjectStore
    hashing: bool
    seen: set[str] = field(default_factory=set)  # keys
    links: list[Link] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    manifests: dict[str, Manifest] = field(default_factory=dict)  # by path from the score: "", "model", "model/teacher"
    met: dict[str, Manifest] = field(default_factory=dict)  # by key
    recipes: dict[str, Recipe | None] = field(default_factory=dict)  # by key; None: gone or damaged

    @property
    def problems(self) -> list[Link]:
        """The links that are broken."""
        return [link for link in self.links if link.problem]


def open_chain(address: str) -> tuple[ObjectStore, str]:
    """Return the store and the key of a manifest at a full address. Raises UserError for another form."""
    store, key = place_of(address)
    if attempt_at(key) is None:
        raise UserError(
            f"{redact(address)}: not the address of a step's manifest (.../steps/score/KEY/1.json): `score` prints it"
        )
    return open_store(store), key


def verify(address: str, *, hashing: bool = True) -> Chain:
    """Walk the chain under a manifest; with ``hashing`` every object is read whole and compared with its digest.

    A broken link does not end the walk where the rest can still be reached. Raises UserError when there is nothing at
    ``address`` or when a manifest cannot be a step's (no recipe or another one, made from itself), and Corrupt when that very
    manifest is damaged.
    """
    store, key = open_chain(address)
    try:
        content = store.read(key)
    except NotFound as error:
        raise UserError(f"{redact(address)}: no such manifest: check the address") from error
    root = _exact(content, store.address_of(key))
    chain = Chain(root, store, hashing)
    _walk(chain, "", key, root)
    _check_results(chain)
    return chain


def _exact(content: bytes, address: str) -> Manifest:
    """Return the manifest; raise Corrupt unless it is byte for byte as it was published."""
    manifest = parse_manifest(content, address)
    if not manifest.checksum:
        raise Corrupt(f"{address}: has no checksum: it was written by an older version; run its step again")
    if manifest.to_json() != content:
        raise Corrupt(f"{address}: is damaged: not the bytes that were published; delete it and run its step again")
    return manifest


def _walk(chain: Chain, path: str, key: str, manifest: Manifest, above: tuple[str, ...] = ()) -> None:
    if path.count("/") > DEEPEST:
        raise Corrupt(f"{chain.store.address}: manifests name each other more than {DEEPEST} deep, which no step does")
    chain.seen.add(key)
    chain.manifests[path] = chain.met[key] = manifest
    name = path or manifest.about.step
    chain.links.append(Link(f"{name}: manifest", chain.store.address_of(key), _misplaced(manifest, key)))
    _check_code(chain, name, manifest)
    _check_recipe(chain, name, key, manifest)
    for ref in manifest.objects():
        if ref.key not in chain.seen:
            chain.seen.add(ref.key)
            chain.links.append(_checked(chain, f"{name}: {ref.name}", ref))
    for kind, digest in manifest.about.inputs.items():
        below = f"{path}/{kind}".strip("/")
        source = manifest.about.input_keys.get(kind)
        if source is None:
            chain.links.append(Link(f"{below}: manifest", "", f"{name} does not say where its input lies"))
        elif source in (*above, key):
            raise UserError(f"{chain.store.address_of(key)}: is made from itself by its input {kind!r}, {_NO_STEP}")
        elif source not in chain.seen:
            _descend(chain, below, source, digest, (*above, key))
        elif source in chain.met and chain.met[source].digest == digest:
            chain.manifests.setdefault(below, chain.met[source])
        else:
            chain.links.append(
                Link(f"{below}: manifest", "", f"{one_line(source, 120)} is not what {name} was made from")
            )


def _descend(chain: Chain, path: str, key: str, digest: str, above: tuple[str, ...]) -> None:
    address = ""
    try:
        address = chain.store.address_of(key)
        manifest = _exact(chain.store.read(key), address)
        if manifest.digest != digest:
            raise Corrupt(f"{address}: is another result than the one that was used ({digest[:12]})")
    except SidaError as error:
        chain.links.append(Link(f"{path}: manifest", address, str(error)))
        return
    _walk(chain, path, key, manifest, above)


def _check_recipe(chain: Chain, name: str, key: str, manifest: Manifest) -> None:
    """Refuse a manifest without the recipe that its step was called with: one that is read, and asks for its parameters."""
    ref, where = manifest.about.recipe, chain.store.address_of(key)
    if ref is None:
        raise UserError(f"{where}: records no recipe, so an older version wrote it, or no step: run its step again")
    if ref.key != object_key(ref.sha256, "recipe.json") or ref.size > LARGEST_RECIPE:
        raise UserError(f"{where}: the recipe that it records is another object, {one_line(ref.key, 90)}, {_NO_STEP}")
    if ref.key not in chain.recipes:
        chain.seen.add(ref.key)
        link = _checked(chain, f"{name}: {ref.name}", ref, hashing=True)
        chain.links.append(link)
        try:
            chain.recipes[ref.key] = None if link.problem else recipe_of(chain.store, manifest)
        except UserError as error:
            raise UserError(
                f"{where}: the recipe that it records is none ({one_line(str(error), 120)}), {_NO_STEP}"
            ) from error
    recipe, step = chain.recipes[ref.key], EVERY_STEP.get(manifest.about.step)
    if recipe is None or step is None:
        return
    made, asked = manifest.about.parameters, step.asks(recipe)
    if differ := [what for what in asked if what in made and digest_of(made[what]) != digest_of(asked[what])]:
        raise UserError(
            f"{where}: its recipe asks for another {one_line(differ[0], 40)} than it was made with, {_NO_STEP}"
        )


def _checked(chain: Chain, name: str, ref: ObjectRef, *, hashing: bool = False) -> Link:
    problem = ""
    if chain.hashing or hashing:
        try:
            verify_object(chain.store, ref)
        except SidaError as error:
            problem = str(error)
    return Link(name, chain.store.address_of(ref.key), problem)


def _check_code(chain: Chain, name: str, manifest: Manifest) -> None:
    """Remark on another version of a step's code: code is no object of the store, and this is no fault."""
    step = EVERY_STEP.get(manifest.about.step)
    if step is not None and step.code() != manifest.about.code:
        commit = manifest.about.machine.get("commit", "an unknown commit")
        chain.remarks.append(
            f"{name}: made by another version of its code ({commit[:19]}); --recompute shows whether it matters"
        )


def _misplaced(manifest: Manifest, key: str) -> str:
    """Return why a manifest is not one of the step whose attempt it says, and lies as, it is; empty where it is."""
    about, step = manifest.about, EVERY_STEP.get(manifest.about.step)
    if attempt_at(key) != (about.step, about.key, about.attempt):
        return "says that it is another step's, or attempt's"
    if step is None:
        return f"is of a step {one_line(about.step, 40)!r}, which this version does not have"
    if not isinstance(manifest.result, step.result):
        return f"holds a result of another kind than {about.step} makes: {manifest.result.kind}"
    if not step.measures and about.key not in (
        digest_of(key_parts(about.step, version, about.parameters, about.inputs, "")) for version in VERSIONS
    ):  # whoever measures again under another ``repeat`` has another key, and the text is not recorded
        return f"lies under a key that {about.step} does not give to its parameters and inputs"
    return ""


def _check_results(chain: Chain) -> None:
    """Add a link for each contradiction between a result and what lies below it."""
    checked = set()
    for path, manifest in list(chain.manifests.items()):
        folder = step_folder(manifest.about.step, manifest.about.key)
        if (place := (folder, manifest.about.attempt)) in checked:
            continue
        checked.add(place)
        below = {name: chain.manifests.get(f"{path}/{name}".strip("/")) for name in manifest.about.inputs}
        for problem in _contradictions(chain, manifest, below):
            name = f"{path or manifest.about.step}: what it says"
            chain.links.append(Link(name, f"{chain.store.address}/{folder}", problem))


def _contradictions(chain: Chain, manifest: Manifest, below: Mapping[str, Manifest | None]) -> Iterator[str]:
    found = list(_in_scores(chain, manifest, below)) if isinstance(manifest.result, ScoresResult) else []
    yield from found
    step = EVERY_STEP.get(manifest.about.step)
    if step is None or not isinstance(manifest.result, step.result):
        return  # reported where it was met
    for name, (source, inner) in step.carries.items():
        carrier = below.get(source)
        if carrier is not None and manifest.about.inputs.get(name) != carrier.about.inputs.get(inner):
            yield f"its {name} is not that of its {source}"
            return
    recipe = chain.recipes.get(manifest.about.recipe.key) if manifest.about.recipe else None
    inputs = {name: one for name, one in below.items() if one is not None}
    if found or recipe is None or len(inputs) < len(below):
        return  # reported already
    yield from _not_repeated(step, manifest, Made(chain.store, recipe, manifest.about, inputs, manifest.result))


def _not_repeated(step: Step[Any], manifest: Manifest, made: Made[Any]) -> Iterator[str]:
    """Yield a problem for each field that is not what its step makes of recipe, inputs and the other fields."""
    try:
        expected = step.repeats(made)
    except SidaError as error:
        yield str(error)
        return
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        yield f"what {step.name} makes of its inputs cannot be said: {one_line(f'{type(error).__name__}: {error}', 120)}"
        return
    older = "" if manifest.about.code == step.code() else f", or another version wrote it so: --force {step.name}"
    for name, value in expected.items():
        if not same(_at(manifest, name), value):
            yield f"its {name}: not what {step.name} makes of its recipe and of what lies below it{older}"


def _at(manifest: Manifest, path: str) -> Any:
    """Return a field of the result, or ``about.parameters.images``."""
    first, *rest = path.split(".")
    value = manifest.about if first == "about" else getattr(manifest.result, first)
    for name in rest:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal but for rounding, models and containers by their parts."""
    if isinstance(one, BaseModel) and type(one) is type(other):
        return same(dict(one), dict(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING_OF_ZERO)
    return bool(one == other)


def _in_scores(chain: Chain, manifest: Manifest, below: Mapping[str, Manifest | None]) -> Iterator[str]:
    result = manifest.result
    assert isinstance(result, ScoresResult)
    if "reference" not in below:
        yield "it does not say which reference it was measured against"
    if "model" not in below and any(row.model in ("teacher", "generator") for row in result.rows):
        yield "it does not say which model it is of"
    if (reference := below.get("reference")) is not None:
        moments = reference.result
        if result.reference_digest != reference.digest or not isinstance(moments, ReferenceResult):
            yield "the reference is not the one below it"
        elif any(row.metric != moments.metric for row in result.rows):
            yield f"its metric is not the reference's, {one_line(moments.metric, 40)}"
        elif manifest.about.inputs.get("dataset", moments.dataset_digest) != moments.dataset_digest:
            yield "the data set is not that of its reference"
        elif not result.detector_sha256 == moments.detector_sha256 == moments.detector.sha256:
            yield "the detector is not the reference's"
    if (model := below.get("model")) is not None:
        weights = getattr(model.result, "weights", None)
        rows = [row for row in result.rows if row.model in ("teacher", "generator")]
        if weights is None or any(row.checkpoint_sha256 != weights.sha256 for row in rows):
            yield "the checkpoint is not the model below it"
    asked = [manifest.about.parameters.get(name) for name in ("images", "first_seeds")]
    for row in result.rows if isinstance(asked[1], list) else ():
        if [row.n, list(row.first_seeds)] != asked:
            yield f"{row.label}: its seeds are not those of the step's parameters"
    yield from _sums(result)
    yield from _seeds(chain, result, manifest)


def _sums(result: ScoresResult) -> Iterator[str]:
    """Yield a problem for each row whose mean, spread and interval are not those of its values, or that has none."""
    if not result.rows:
        yield "it has no rows"
    for row in (*result.rows, *result.further, *result.by_steps):
        ranges = 1 if row.model == "images" else len(row.first_seeds)  # a folder has no seeds
        if not row.values or row.n < 1 or ranges != len(row.values):
            yield f"{row.label}: {len(row.values)} values of {ranges} seed ranges of {one_line(str(row.n), 20)}"
            continue
        said = (row.mean, row.sd, row.interval)
        found = (
            statistics.fmean(row.values),
            statistics.stdev(row.values) if len(row.values) > 1 else 0.0,
            half_width(row.values),
        )
        for name, one, other in zip(("mean", "sd", "interval"), said, found, strict=True):
            if not same(one, other):
                yield f"{row.label}: its {name} is not that of its values"


def _seeds(chain: Chain, result: ScoresResult, manifest: Manifest) -> Iterator[str]:
    """Yield a problem for each reported range that overlaps another one or the seeds that the checkpoint was chosen by."""
    recipe = chain.recipes.get(manifest.about.recipe.key) if manifest.about.recipe else None
    if recipe is None:
        return  # reported where the recipe itself was hashed
    for row in result.rows:
        taken = [(0, recipe.evaluation.selection_images)] if row.model == "generator" else []
        for first in row.first_seeds:
            if any(first < end and start < first + row.n for start, end in taken):
                yield f"{row.label}: seeds {first} to {first + row.n - 1} were used before"
            taken.append((first, first + row.n))


# -- score again


@dataclass(frozen=True)
class Recomputed:
    """Row as it was published, and as it was computed now."""

    published: Score
    again: Score

    @property
    def difference(self) -> float:
        """Largest relative difference of a range's value; infinite where one is no number."""
        pairs = zip(self.published.values, self.again.values, strict=True)
        differences = [abs(a - b) / max(abs(a), 1e-12) for a, b in pairs]
        return math.inf if any(map(math.isnan, differences)) else max(differences)

    @property
    def agrees(self) -> bool:
        """True if another machine's rounding explains the difference."""
        return self.difference <= TOLERANCE


def recompute(chain: Chain) -> list[Recomputed]:
    """Run the score's step anew, under a key of its own, on the objects below it. Raises UserError for other manifests."""
    step = chain.root.about.step
    models = {"score": "generator", "score_teacher": "teacher"}
    if step not in models:
        raise UserError(f"{step}: only score and score_teacher can be computed again from the store")
    recipe = recipe_of(chain.store, chain.root)
    inputs: dict[str, Any] = {models[step]: chain.manifests["model"], "reference": chain.manifests["reference"]}
    again = EVERY_STEP[step](recipe=recipe, repeat=f"verify {time.time():.6f}", **inputs)
    before, after = _measured(chain.root), _measured(again.manifest)
    pairs = list(zip(before, after, strict=False))
    if len(before) != len(after) or any(
        (said.metric, said.n, said.first_seeds) != (anew.metric, anew.n, anew.first_seeds) for said, anew in pairs
    ):
        raise UserError(
            "the score's rows are not those that its recipe asks for: its manifest was changed, or it is another's"
        )
    return [Recomputed(published, anew) for published, anew in pairs]


def _measured(manifest: Manifest) -> tuple[Score, ...]:
    result = manifest.result
    return (*manifest.measured, *result.by_steps) if isinstance(result, ScoresResult) else manifest.measured
