"""What a launching step and its workers agree on: the job's file, and for each kind of job its task and its outcome.

Inputs are manifests by key and digest, files objects by digest: nothing is copied into the job's file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from sida.errors import Corrupt, SidaError, UserError
from sida.manifests import Manifest, Measured, Part, Selected, digest_of, first_fault
from sida.origin import manifest_key
from sida.stores.base import ObjectRef

O = TypeVar("O", bound=Part)  # noqa: E741
O_co = TypeVar("O_co", bound=Part, covariant=True)


class ManifestRef(Part):
    """A manifest in the store."""

    key: str
    digest: str  # of its result

    @classmethod
    def of(cls, manifest: Manifest[Part]) -> ManifestRef:
        """Name a published manifest."""
        return cls(key=manifest_key(manifest), digest=manifest.digest)


class Spec(Part, Generic[O_co]):
    """Task of a job; its workers publish an ``outcome``."""

    outcome: ClassVar[type[Part]]

    @property
    def inputs(self) -> dict[str, ManifestRef]:
        """The manifests that it rests on, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, ManifestRef)}

    @property
    def task(self) -> dict[str, Any]:
        """The task with its inputs by digest: the same one may lie elsewhere."""
        return self.model_dump(mode="json") | {name: ref.digest for name, ref in self.inputs.items()}

    def proven(self, outcome: Part, read: Callable[[ObjectRef], bytes]) -> bool:
        """Return whether the objects of an outcome, which are whole, vouch for all of it that enters the step's result."""
        return False


class DistillOutcome(Part):
    """The best generator of a distillation."""

    generator: ObjectRef
    curve: ObjectRef
    images_seen: int
    score: Measured
    dropped: int  # samples skipped because their losses were not finite
    noise: str = ""  # what the user should know of a run that ended in noise
    seconds: dict[str, float]
    profile: dict[str, float]  # milliseconds of one iteration by kind of operator
    selections: tuple[Selected, ...] = ()  # every generator that was scored, where the recipe keeps them


class DistillSpec(Spec[DistillOutcome]):
    """Distill a teacher; theta starts from ``start``."""

    outcome = DistillOutcome
    kind: Literal["distill"] = "distill"
    teacher: ManifestRef
    start: ManifestRef
    dataset: ManifestRef
    reference: ManifestRef

    def proven(self, outcome: Part, read: Callable[[ObjectRef], bytes]) -> bool:
        """The curve tells the images seen and the score, to the six digits that it keeps."""
        assert isinstance(outcome, DistillOutcome)
        points = parse_curve(read(outcome.curve))
        return is_best(points, outcome.images_seen, outcome.score) and all(
            is_scored(points, kept.images_seen, kept.score) for kept in outcome.selections
        )


_POINTS = TypeAdapter(list[dict[str, Measured]])


def parse_curve(content: bytes) -> list[dict[str, float]]:
    """Return the points of a curve: finite numbers by name, ``images`` among them. Raises UserError for something else."""
    try:
        points = _POINTS.validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"its curve is no list of points ({first_fault(error)}): run the step again") from error
    if not all("images" in point for point in points):
        raise UserError("its curve has a point without images: run the step again")
    return points


def is_best(points: list[dict[str, float]], images: int, score: float) -> bool:
    """Return whether the best point of a curve has this score, which it keeps to six digits, at so many images."""
    return is_scored(points, images, score) and float(f"{score:.6g}") == min(_scores(points).values())


def is_scored(points: list[dict[str, float]], images: int, score: float) -> bool:
    """Return whether a curve has this score, to six digits, at so many images."""
    return _scores(points).get(images) == float(f"{score:.6g}")


def _scores(points: list[dict[str, float]]) -> dict[float, float]:
    return {point["images"]: point["score"] for point in points if "score" in point}


class TeachOutcome(Part):
    """A trained teacher."""

    teacher: ObjectRef
    images_seen: int


class TeachSpec(Spec[TeachOutcome]):
    """Train a teacher."""

    outcome = TeachOutcome
    kind: Literal["teach"] = "teach"
    dataset: ManifestRef

    def proven(self, outcome: Part, read: Callable[[ObjectRef], bytes]) -> bool:
        """The weights are the result."""
        return True


class ScoreOutcome(Part):
    """Scores of a model's seed ranges, in order."""

    values: tuple[Measured, ...]
    further: dict[str, tuple[Measured, ...]] = {}  # noqa: RUF012 (pydantic copies it); other metrics of the same images
    by_steps: tuple[tuple[Measured, ...], ...] = ()  # after each of a generator's steps but the last, by step
    second: tuple[Measured, ...] = ()  # distances in the second detector's features
    second_bias: Measured | None = None  # what n samples of its reference would score
    floor: tuple[Measured, ...] = ()  # of as many real images; empty where they are not there
    sampling_bias: Measured
    images_per_second: float
    batch: int


class ScoreSpec(Spec[ScoreOutcome]):
    """Score a model over seed ranges of ``count`` images."""

    outcome = ScoreOutcome
    kind: Literal["score"] = "score"
    model: ManifestRef
    dataset: ManifestRef
    reference: ManifestRef
    first_seeds: tuple[int, ...]
    count: int
    extra_metrics: tuple[str, ...] = ()
    floor: bool = False  # score real images too
    guide: ObjectRef | None = None  # the network that a guided teacher is led away from


class ReferenceOutcome(Part):
    """Statistics of the training set's features."""

    moments: ObjectRef
    second_moments: ObjectRef | None = None
    real_features: ObjectRef | None = None
    precision_recall_features: ObjectRef | None = None


class ReferenceSpec(Spec[ReferenceOutcome]):
    """Pass the training set through the detector."""

    outcome = ReferenceOutcome
    kind: Literal["reference"] = "reference"
    dataset: ManifestRef
    detector: ObjectRef
    features: int
    keep: bool  # the features themselves too
    images: ObjectRef | None = None  # published reference images for precision and recall
    second: ObjectRef | None = None  # another detector, which sees the same images
    second_features: int = 0

    def proven(self, outcome: Part, read: Callable[[ObjectRef], bytes]) -> bool:
        """The statistics are the result."""
        return True


class EncodeOutcome(Part):
    """The shards are in the store."""

    reused: int  # shards that were there already


class EncodeSpec(Spec[EncodeOutcome]):
    """Encode images to latents, shard by shard, into the folder ``work``."""

    outcome = EncodeOutcome
    kind: Literal["encode"] = "encode"
    work: str
    shard_bytes: int


class LeaseRef(Part):
    """The lease that a job's workers write under."""

    key: str
    number: int


class Launch(Part):
    """The TrainJob that a job runs in, and how long its workers go on without a launcher."""

    job: str
    abandoned_seconds: float


AnySpec = Annotated[DistillSpec | TeachSpec | ScoreSpec | ReferenceSpec | EncodeSpec, Field(discriminator="kind")]


class JobFile(Part):
    """``spec.json`` of a job's folder."""

    schema_version: Literal[2] = 2
    step: str
    folder: str
    lease: LeaseRef
    recipe: ObjectRef
    spec: AnySpec
    launch: Launch | None = None

    def to_json(self) -> bytes:
        """The file's bytes."""
        return self.model_dump_json(indent=1).encode()


def parse_job(content: bytes, where: str) -> JobFile:
    """Read a job's file. Raises SidaError for another version's."""
    try:
        return JobFile.model_validate_json(content)
    except ValidationError as error:
        raise SidaError(
            f"{where}: another version wrote it ({first_fault(error)}): make a new attempt with --force"
        ) from None


def outcome_file(folder: str, spec: Spec[O], outcome: O) -> bytes:
    """Return ``result.json`` of a job's folder: the outcome, and a checksum of it, its task and the folder."""
    fields = outcome.model_dump(mode="json")
    return json.dumps({**fields, "checksum": _checksum(folder, spec, fields)}, indent=1).encode()


def parse_outcome(folder: str, spec: Spec[O], content: bytes, where: str) -> O:
    """Read what the workers of this very job published. Raises Corrupt for what is damaged, another job's, an older version's."""
    try:
        fields = dict(json.loads(content))
        if fields.pop("checksum") != _checksum(folder, spec, fields):
            raise ValueError("its checksum is not that of its task and its content")
        return cast(type[O], spec.outcome).model_validate(fields)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Corrupt(f"{where}: is damaged, of another job, or of an older version: run the step again") from error


def _checksum(folder: str, spec: Spec[Any], fields: dict[str, Any]) -> str:
    return digest_of([folder, spec.task, fields])
