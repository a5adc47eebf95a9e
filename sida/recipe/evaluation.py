"""Fields of measurement: detectors, seeds, gates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sida.recipe.section import Batch, Count, File, Positive, Precision, Section, Sha256, Width


class Detector(Section):
    """The feature network that images are compared with."""

    kind: Literal["inception", "dinov2", "digits", "random"] = "inception"
    address: str
    sha256: Sha256 | None = None
    features: Width


class ReferenceFile(File):
    """A published file of reference statistics (EDM's npz, EDM2's pkl) or of reference images (npz)."""


class SecondMetric(Section):
    """Another distance of the same images, in another detector's features, to that detector's own statistics."""

    metric: Annotated[str, Field(pattern="^(fid|fd)[a-z0-9_]*$")]
    detector: Detector
    reference: ReferenceFile | None = None  # published statistics; None: computed from the training set

    @model_validator(mode="after")
    def _is_named_after_its_features(self) -> SecondMetric:
        _check_name(self.metric, self.detector)
        return self


def _check_name(metric: str, detector: Detector) -> None:
    """Raise ValueError where a metric has the name of other features than its detector's."""
    kind = detector.kind
    if metric.startswith("fid") and kind != "inception":
        raise ValueError(f"metric {metric!r} with detector.kind {kind}: call it fd_{kind}")
    if metric.startswith("fd_dinov2") != (kind == "dinov2"):
        wanted = (
            "call it fd_dinov2" if kind == "dinov2" else "fd_dinov2 takes kind dinov2 and Meta's weights as published"
        )
        raise ValueError(f"metric {metric!r} with detector.kind {kind}: {wanted}")
    if metric == "fd_dinov2" and detector.features != 1024:
        raise ValueError(f"fd_dinov2 is ViT-L/14's, of 1024 features, not {detector.features}: call it fd_dinov2_...")


def _no_distance(names: Any) -> Any:
    if not isinstance(names, list):
        return names
    if found := [name for name in names if str(name).startswith(("fid", "fd_"))]:
        raise ValueError(f"{found[0]!r} is another detector's distance: give it and its detector a section `second`")
    return tuple(names)  # whose items are checked; a list would be none in Python's own types


class Evaluation(Section):
    """Measurement of scores. Selection and reporting use different seeds."""

    LATER = ("stop_at_noise", "second")

    metric: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    extra_metrics: Annotated[tuple[Literal["is", "kid", "precision_recall"], ...], BeforeValidator(_no_distance)] = ()
    detector: Detector
    reference: ReferenceFile | None = None  # published statistics of the training set; None: computed from it
    precision_recall_reference: ReferenceFile | None = None  # published images; None: the training set
    second: SecondMetric | None = None  # measured in the same pass; the first one alone selects, gates and is compared
    images: Annotated[int, Field(ge=2, le=2**48)]  # generated images per seed range
    ranges: Batch = 3  # held-out seed ranges that are reported
    teacher_ranges: Batch | None = None  # fewer for a slow teacher; None: as many as ranges
    first_seed: Count = 1_000_000  # of the first reported range; the next ones follow it
    selection_images: Annotated[int, Field(ge=2, le=2**48)]
    selection_every: Positive  # in images seen
    precision: Precision | None = None  # of scored networks, not the detector; None: method.precision
    protocol: Literal["mean", "best"] = "mean"  # best: the lowest range is the score, as publications report it
    stop_after: Positive | None = None  # end the run after this many selections without a better score; None: never
    stop_at_noise: bool = False  # end the run when its selection scores say that it has turned to noise

    @model_validator(mode="after")
    def _is_named_after_its_features(self) -> Evaluation:
        _check_name(self.metric, self.detector)
        if self.second is not None and self.second.metric == self.metric:
            raise ValueError(f"second.metric is {self.metric!r} too: leave it out, or take another detector")
        if "is" in self.extra_metrics and self.detector.kind in ("dinov2", "random"):
            raise ValueError(f"extra_metrics: {self.detector.kind} features know no classes: take `is` out")
        return self

    @model_validator(mode="after")
    def _ranges_are_apart(self) -> Evaluation:
        if self.selection_images > self.first_seed:
            raise ValueError(f"selection seeds 0 to {self.selection_images} reach into the reported ones")
        return self


class Gate(Section):
    """Limits that the teacher must meet before anything is distilled, and those that the generator is held to."""

    teacher_at_most: Annotated[float, Field(gt=0)]
    generator_within: Annotated[float, Field(gt=0)] = 1.0  # times the teacher's score
    teacher_images: Annotated[int, Field(ge=2, le=2**48)] | None = None  # fewer per range; None: evaluation.images
    on_failure: Literal["stop", "warn"] = "stop"
