"""Manifests: what a step hands to the next, a few KB of JSON that name objects by digest.

A manifest has a *result* part, whose sha256 is its digest, and an *about* part: when, where, by whom, how fast. Two runs that
computed the same thing have equal digests however different their about parts are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sida.errors import UserError
from sida.stores.base import ObjectRef

SCHEMA_VERSION = 1


class Part(BaseModel):
    """Frozen, and strict about keys: an unknown field is another schema's."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class About(Part):
    """How a manifest came to be. Nothing here enters a digest."""

    step: str
    key: str
    attempt: int
    created: str  # UTC, ISO 8601
    seconds: float
    store: str  # address of the store that holds the objects
    etags: dict[str, str]  # object key -> etag at publication, checked when the result is reused
    code: str  # digest of the step's own sources
    inputs: dict[str, str]  # input name -> digest of its manifest
    parameters: dict[str, Any]
    machine: dict[str, str]
    notes: dict[str, str | float] = {}  # images per second and the like


class TeacherResult(Part):
    """A pretrained denoiser as safetensors."""

    kind: Literal["teacher"] = "teacher"
    network: dict[str, Any]
    weights: ObjectRef
    source_sha256: str  # of the file as fetched, before any conversion
    licence: str


class GeneratorResult(Part):
    """A distilled one-step generator (the EMA of theta) as safetensors."""

    kind: Literal["generator"] = "generator"
    network: dict[str, Any]
    weights: ObjectRef
    sigma_init: float
    method: str
    images_seen: int
    selection_score: float
    curve: ObjectRef  # JSON: losses and selection scores over images seen
    recipe_sha256: str
    licence: str


class Shard(Part):
    """Fixed-size records, in order."""

    object: ObjectRef
    count: int


class DatasetResult(Part):
    """Images as shards; record = int32 label, then uint8 [channels, resolution, resolution]."""

    kind: Literal["dataset"] = "dataset"
    source: str
    transform: str
    licence: str
    count: int
    channels: int
    resolution: int
    classes: int
    histogram: tuple[int, ...]  # images per class; empty when there are no labels
    shards: tuple[Shard, ...]


class ReferenceResult(Part):
    """Feature statistics of the training set: float64 sums as safetensors."""

    kind: Literal["reference"] = "reference"
    metric: str
    detector_sha256: str
    detector: ObjectRef
    features: int
    count: int
    moments: ObjectRef
    dataset_digest: str


class Score(Part):
    """One model's distance over held-out seed ranges; a row of the table."""

    model: Literal["teacher", "generator", "real"]
    label: str
    nfe: int | None
    metric: str
    values: tuple[float, ...]
    first_seeds: tuple[int, ...]
    n: int  # images per range
    mean: float
    sd: float
    sampler: str
    checkpoint_sha256: str | None


class ScoresResult(Part):
    """Scores with what they rest on."""

    kind: Literal["scores"] = "scores"
    rows: tuple[Score, ...]
    detector_sha256: str
    reference_digest: str
    licence: str
    gate: str | None = None  # what the gate said, when there is one


class Regression(Part):
    """A generator's score against the last one of the same recipe; half-widths are of 95% intervals, None where unknown."""

    metric: str
    before: float
    before_half_width: float | None
    now: float
    now_half_width: float | None
    worse_by: float  # below zero: better
    half_width: float | None  # of the interval of the difference
    regressed: bool
    previous: str  # digest of the manifest of the last score


class RunResult(Part):
    """The end of a run: table, verdict, pictures."""

    kind: Literal["run"] = "run"
    recipe: str
    recipe_sha256: str
    title: str
    rows: tuple[Score, ...]
    verdict: str
    generator: ObjectRef
    grid: ObjectRef
    licence: str
    regression: Regression | None = None  # None: there is no earlier score to compare with


Result = Annotated[
    TeacherResult | GeneratorResult | DatasetResult | ReferenceResult | ScoresResult | RunResult,
    Field(discriminator="kind"),
]


class Manifest(Part):
    """Result and about, under a schema version."""

    schema_version: int = SCHEMA_VERSION
    result: Result
    about: About

    @property
    def digest(self) -> str:
        """sha256 of the result part in canonical JSON."""
        return digest_of(self.result.model_dump(mode="json"))

    @property
    def rows(self) -> tuple[Score, ...]:
        """The scores it holds; none for manifests that are no scores."""
        return self.result.rows if isinstance(self.result, ScoresResult | RunResult) else ()

    def objects(self) -> list[ObjectRef]:
        """Every object the result names."""
        return list(_objects(self.result))

    def to_json(self) -> bytes:
        """The file's bytes."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def _objects(value: Any) -> Any:
    if isinstance(value, ObjectRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _objects(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _objects(item)


def digest_of(value: Any) -> str:
    """sha256 of canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Manifest from a file's bytes. Raises UserError naming the file for another schema or a damaged one."""
    try:
        version = json.loads(content).get("schema_version")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a manifest (no JSON object): run the step that writes it again") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: manifest schema {version!r}, this version reads {SCHEMA_VERSION}: run the step again"
        )
    try:
        return _MANIFEST.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {field}: {first['msg']}: run the step that writes it again") from error


def read_manifest(path: str | Path, kind: str) -> Manifest:
    """The manifest in a local file, checked to be of the kind a step expects."""
    try:
        manifest = parse_manifest(Path(path).read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such manifest") from error
    if manifest.result.kind != kind:
        raise UserError(f"{path}: is a {manifest.result.kind} manifest, this input takes a {kind} manifest")
    return manifest
