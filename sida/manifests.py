"""Manifests: what a step hands to the next, a few KB of JSON that name objects by digest.

A manifest has a *result* part, whose sha256 is its digest, and an *about* part: when, where, by whom, how fast. Two runs that
computed the same thing have equal digests however different their about parts are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import TypeVar

from sida.errors import Corrupt, UserError
from sida.growing import Growing
from sida.recipe.method import NoiseLevel, Steps
from sida.stores.base import ObjectRef, ObjectStore

SCHEMA_VERSION = 1


def _within(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not low <= value <= high:  # nan neither
            raise ValueError(f"give a finite number from {low:g} to {high:g}")
        return value

    return AfterValidator(check)


# Numbers as they are read. A distance of float32 features is below 1e81, and squares of these bounds can still be summed.
Measured = Annotated[float, _within(-1e100, 1e100)]
Spread = Annotated[float, _within(0, 1e103)]  # of such values: up to 13 times their difference
Count = Annotated[int, Field(ge=0, le=2**48)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# Least and largest value of metrics that have one; rounding may take a Frechet distance, and chance a KID, below 0.
RANGES = {"precision": (0.0, 1.0), "recall": (0.0, 1.0), "is": (0.99, 1e6)}


class Part(Growing):
    """Frozen model, strict about keys: an unknown field is another schema's."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_fault(error: ValidationError, whole: str = "") -> str:
    """Return ``field: message`` of the first fault; ``whole`` names what has no field."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or whole
    return f"{place}: {first['msg']}" if place else str(first["msg"])


class Selected(Part):
    """A generator that a training scored on its way, and the score that it was compared by."""

    images_seen: Count
    score: Measured
    weights: ObjectRef


class About(Part):
    """Origin of a manifest. Nothing here enters a digest."""

    LATER = ("selections",)

    step: str
    key: str
    attempt: int
    created: str  # UTC, ISO 8601
    seconds: float
    store: str  # address of the store that it was written to, which may have been moved since: see sida.origin
    etags: dict[str, str]  # object key -> etag at publication, checked when the result is reused
    code: str  # digest of the step's own sources
    inputs: dict[str, str]  # input name -> digest of its manifest
    parameters: dict[str, Any]
    machine: dict[str, str]
    notes: dict[str, str | float] = {}  # noqa: RUF012 (pydantic copies it); images per second and the like
    input_keys: dict[str, str] = {}  # noqa: RUF012 (the same); input name -> key of its manifest in the store
    recipe: ObjectRef | None = None  # the resolved recipe that the step was called with
    selections: tuple[Selected, ...] = ()  # every scored generator, where the recipe keeps them


class TeacherResult(Part):
    """Pretrained denoiser as safetensors: the teacher, or the finished generator that SiD2A starts from."""

    kind: Literal["teacher"] = "teacher"
    network: dict[str, Any]
    weights: ObjectRef
    source_sha256: str  # of the file as fetched, before any conversion
    licence: str


class GeneratorResult(Part):
    """Distilled generator (the EMA of theta) as safetensors."""

    LATER = ("steps",)

    kind: Literal["generator"] = "generator"
    network: dict[str, Any]
    weights: ObjectRef
    sigma_init: NoiseLevel
    method: str
    images_seen: int
    selection_score: Measured | None  # None: it was made elsewhere
    curve: ObjectRef | None  # JSON list of points: images, losses, health, selection scores (sida.training.history)
    recipe_sha256: str
    licence: str
    source_sha256: str | None = None  # of the file that it came as, before any conversion
    steps: Steps = 1  # network evaluations for an image


class Shard(Part):
    """Fixed-size records, in order."""

    object: ObjectRef
    count: int


class LatentsInfo(Part):
    """Encoder of the images, and normalization of their latents."""

    vae: str
    revision: str | None
    vae_sha256: str | None  # of its weights; None when the latents were encoded elsewhere
    image_resolution: int
    raw_mean: tuple[float, ...]
    raw_std: tuple[float, ...]
    licence: str


class Excluded(Part):
    """Counts of images of the source that were not as they should be; ``listing`` names them (JSON)."""

    unreadable: int = 0
    duplicates: int = 0
    kept_duplicates: int = 0  # counted and listed, but in the data set
    ignored_files: int = 0  # that are no images
    rotated: int = 0  # images whose EXIF asks for a rotation, taken as stored
    listing: ObjectRef | None = None


class DatasetResult(Part):
    """Images, latents or labels as shards (``sida.data.layout``)."""

    LATER = ("class_names",)

    kind: Literal["dataset"] = "dataset"
    record: Literal["pixels", "latents", "labels"] = "pixels"
    source: str
    source_sha256: str = ""  # of the archive, or over the contents of a folder's images in order
    decoder: str = ""  # what decoded and resized: Pillow and its version
    latents: LatentsInfo | None = None
    excluded: Excluded = Excluded()
    picture: ObjectRef | None = None  # PNG: a grid with labels, and the class histogram
    transform: str
    licence: str
    count: int
    channels: int
    resolution: int
    classes: int
    histogram: tuple[int, ...]  # images per class; empty when there are no labels
    class_names: tuple[
        str, ...
    ] = ()  # of class folders or a file's classes, by class; empty where the source has no names, or published ones
    shards: tuple[Shard, ...]


class DetectorStatistics(Part):
    """What the training set looks like to a detector: published statistics or our own, as safetensors."""

    metric: str
    detector_sha256: str
    detector: ObjectRef
    features: int
    count: int  # images; 0 where a published file does not say
    moments: ObjectRef  # what scores are distances to: count, sum, outer (ours) or mean, covariance (published)
    origin: Literal["computed", "published"] = "computed"
    source_sha256: str | None = None  # of the published file
    source: ObjectRef | None = None
    computed: ObjectRef | None = None  # our own moments beside published ones
    difference: float | None = None  # Frechet distance between the two


class ReferenceResult(DetectorStatistics):
    """Feature statistics of the training set, and features of its images."""

    LATER = ("second",)

    kind: Literal["reference"] = "reference"
    dataset_digest: str
    real_features: ObjectRef | None = None  # of the training images, for KID, precision and recall, and resampling
    precision_recall_features: ObjectRef | None = None  # of published reference images
    second: DetectorStatistics | None = None  # of the recipe's second detector


class Score(Part):
    """One model's distance over held-out seed ranges; a row of the table."""

    model: Literal["teacher", "generator", "real", "images"]
    label: str
    nfe: Count | None
    metric: str
    values: tuple[Measured, ...]
    first_seeds: tuple[Seed, ...]
    n: Count  # images per range
    mean: Measured
    sd: Spread
    sampler: str
    checkpoint_sha256: str | None
    interval: Spread | None = None  # half-width of the mean's 95% interval; None with one range
    protocol: Literal["mean", "best"] = "mean"  # best: the lowest range, as publications report it

    @model_validator(mode="after")
    def _in_range(self) -> Score:
        low, high = RANGES.get(self.metric.partition("_")[0], (-math.inf, math.inf))
        if not all(low <= value <= high for value in (*self.values, self.mean)):
            raise ValueError(f"{self.metric} lies between {low:g} and {high:g}")
        return self

    @property
    def reported(self) -> float:
        """The number that its protocol reports."""
        return self.mean if self.protocol == "mean" else min(self.values)


class SecondScored(Part):
    """What the further row of a second metric rests on."""

    metric: str
    detector_sha256: str
    sampling_bias: Measured


class ScoresResult(Part):
    """Scores, and what they rest on."""

    LATER = ("precision", "second", "by_steps")

    kind: Literal["scores"] = "scores"
    rows: tuple[Score, ...]
    detector_sha256: str
    reference_digest: str
    licence: str
    gate: str | None = None  # what the gate said, when there is one
    sampling_bias: Measured | None = None  # what n samples of the reference itself would score, to first order
    further: tuple[Score, ...] = ()  # other metrics of the same images: is, kid, precision, recall, fd_dinov2
    guide: ObjectRef | None = None  # the network that a guided teacher was led away from
    precision: str | None = None  # that model and guide computed in; None: float32
    second: SecondScored | None = None
    by_steps: tuple[Score, ...] = ()  # a generator of several steps, after each but the last: same seeds, same noise

    @property
    def second_rows(self) -> tuple[Score, ...]:
        """Return the rows of the second metric."""
        return tuple(row for row in self.further if self.second and row.metric == self.second.metric)


class Regression(Part):
    """Comparison of a score with the last one of the same recipe; half-widths are of 95% intervals, None if unknown."""

    metric: str
    before: Measured
    before_half_width: Spread | None
    now: Measured
    now_half_width: Spread | None
    worse_by: Annotated[float, Field(allow_inf_nan=False)]  # below zero: better
    half_width: Spread | None  # of the interval of the difference
    regressed: bool
    previous: str  # digest of the manifest of the last score


class Panel(Part):
    """One sample grid: PNG, every grid of a benchmark from the same seeds and labels."""

    model: Literal["real", "teacher", "generator"]
    title: str
    image: ObjectRef


class RunResult(Part):
    """The end of a run: table, verdict, pictures."""

    LATER = ("second",)

    kind: Literal["run"] = "run"
    recipe: str
    recipe_sha256: str
    title: str
    rows: tuple[Score, ...]
    verdict: str
    generator: ObjectRef
    grid: ObjectRef  # PNG of all panels
    panels: tuple[Panel, ...]
    nearest: ObjectRef | None  # PNG: samples, and the training images nearest to them; None: labels alone
    evidence: ObjectRef  # JSON: how near, and which classes are there (sida.report.samples)
    licence: str
    regression: Regression | None = None  # None: there is no earlier score to compare with
    second: tuple[Score, ...] = ()  # rows of the recipe's second metric


class PublishedSecond(Part):
    """A second metric of a released generator, of which nothing is published."""

    metric: str
    ours: Measured
    interval: Spread | None


class PublishedRow(Part):
    """One released generator: the published number and ours."""

    LATER = ("second",)

    benchmark: str
    recipe: str
    generator: str
    metric: str
    published: float | None
    source: str | None
    ours: Measured
    interval: Spread | None
    protocol: Literal["mean", "best"]
    ranges: int
    n: int
    verdict: str
    seconds: float  # that the score took
    images_per_second: float | None
    checkpoint_sha256: str
    second: PublishedSecond | None = None


class PublishedFailure(Part):
    """A released generator that could not be scored, and why."""

    recipe: str
    benchmark: str
    generator: str
    step: str  # that failed
    message: str
    exit_code: int


class PaperRow(Part):
    """Row of the paper: one published number, and the file here that stands for it, the best of those that could be it."""

    benchmark: str
    line: str  # "SiD", "best of SiDA and SiD2A"
    metric: str
    published: float
    source: str
    recipes: tuple[str, ...]  # whose released files could be it
    best: str | None  # the recipe that stands for it; None: none was scored
    ours: Measured | None
    interval: Spread | None
    verdict: Literal["better", "within", "worse", "not scored", "failed"]


class PublishedResult(Part):
    """Released generators, scored."""

    kind: Literal["published"] = "published"
    rows: tuple[PublishedRow, ...]
    paper: tuple[PaperRow, ...] = ()
    failed: tuple[PublishedFailure, ...] = ()


class ReportResult(Part):
    """The page about a run: one HTML file that needs nothing else."""

    kind: Literal["report"] = "report"
    run: str  # digest of the run's manifest
    page: ObjectRef


Result = Annotated[
    TeacherResult
    | GeneratorResult
    | DatasetResult
    | ReferenceResult
    | ScoresResult
    | RunResult
    | PublishedResult
    | ReportResult,
    Field(discriminator="kind"),
]


R = TypeVar("R", bound=Part)
R_co = TypeVar("R_co", bound=Part, covariant=True, default=Result)


class Manifest(Part, Generic[R_co]):
    """Result and about, under a schema version."""

    schema_version: int = SCHEMA_VERSION
    result: R_co
    about: About
    checksum: str = ""  # of all above, so that every reader notices a damaged file

    @property
    def digest(self) -> str:
        """sha256 of the result part in canonical JSON."""
        return digest_of(self.result.model_dump(mode="json"))

    @property
    def measured(self) -> tuple[Score, ...]:
        """Return the rows of a scores manifest, and the further metrics of the same images; not those of earlier steps."""
        return (*self.rows, *self.result.further) if isinstance(self.result, ScoresResult) else self.rows

    @property
    def rows(self) -> tuple[Score, ...]:
        """Return the scores it holds; none for manifests that are no scores."""
        return self.result.rows if isinstance(self.result, ScoresResult | RunResult) else ()

    def objects(self) -> list[ObjectRef]:
        """Return every object the result names."""
        return list(objects_in(self.result))

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        whole = self.model_copy(update={"checksum": self.expected_checksum()})
        return (whole.model_dump_json(indent=1) + "\n").encode()

    def expected_checksum(self) -> str:
        """Return the sha256 of result and about in canonical JSON."""
        return digest_of(self.model_dump(mode="json", exclude={"checksum"}))


def objects_in(value: object) -> Iterator[ObjectRef]:
    """Yield every object that a result, or a part of one, names."""
    if isinstance(value, ObjectRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from objects_in(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from objects_in(item)


def digest_of(value: Any) -> str:
    """Return the sha256 of canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in a file's bytes. Raises UserError naming the file for another schema, Corrupt for damage."""
    try:
        version = json.loads(content).get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{where}: not a manifest (no JSON object): run the step that writes it again") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: manifest schema {version!r}, this version reads {SCHEMA_VERSION}: run the step again"
        )
    try:
        manifest: Manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise Corrupt(f"{where}: {first_fault(error)}: run the step that writes it again") from error
    if manifest.checksum and manifest.checksum != manifest.expected_checksum():
        raise Corrupt(f"{where}: is damaged: its checksum is not that of its content; delete it and run its step again")
    return manifest


def read_record(store: ObjectStore, key: str, model: type[R]) -> R:
    """Return the record at ``key``. Raises NotFound, and UserError for one that is damaged or another version's."""
    try:
        return model.model_validate_json(store.read(key))
    except ValidationError as error:
        address = store.address_of(key)
        raise UserError(
            f"{address} is not a record that this version reads: remove it ({first_fault(error)})"
        ) from error


def read_manifest(path: str | Path, kind: type[R]) -> Manifest[R]:
    """Return the manifest in a local file. Raises UserError when it is not of the kind a step expects."""
    try:
        manifest = parse_manifest(Path(path).read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such manifest") from error
    return of_kind(manifest, kind, str(path))


def of_kind(manifest: Manifest[Part], kind: type[R], where: str) -> Manifest[R]:
    """Return the manifest itself, known to hold such a result. Raises UserError for another one."""
    if not isinstance(manifest.result, kind):
        actual = kind_of(type(manifest.result))
        raise UserError(f"{where}: is a {actual} manifest, this input takes a {kind_of(kind)} manifest")
    return cast(Manifest[R], manifest)


def input_of(inputs: Mapping[str, Manifest[Any]], name: str, kind: type[R]) -> Manifest[R]:
    """Return one of a step's inputs. Raises UserError when it is not there, or holds another kind of result."""
    if name not in inputs:
        raise UserError(f"it does not say which {name} it was made from")
    return of_kind(inputs[name], kind, name)


def kind_of(result: type[Part]) -> str:
    """Return the word for a type of result: teacher, generator, dataset, ..."""
    return str(result.model_fields["kind"].default)
