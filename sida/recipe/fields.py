"""The fields of a recipe, as frozen typed models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from sida.recipe.batches import divide_batch

PAPER = "arXiv 2410.14919"  # SiDA
EMA_RAMP = 0.05  # of the published runs
AUGMENT_DIM = 9  # labels of EDM's augmentation pipe (sida.numerics.augment)

# Upper bounds are far beyond any use: they refuse what could not be built, counted or planned before anybody tries.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, le=2**48)]
Batch = Annotated[int, Field(ge=1, le=2**24)]  # images, or processes, at once
Size = Annotated[int, Field(ge=1, le=8192)]  # pixels along an edge
Channels = Annotated[int, Field(ge=1, le=1024)]  # of an image
Classes = Annotated[int, Field(ge=0, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=16384)]  # of layers, or features
Factor = Annotated[int, Field(ge=1, le=64)]  # of widths
Blocks = Annotated[int, Field(ge=1, le=32)]  # of a level
MOST_LEVELS = 10
Rate = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Ramp = Annotated[float, Field(gt=0)]
MOST_NOISE = 1e6  # images have a variance of about 1
NoiseLevel = Annotated[float, Field(gt=0, lt=MOST_NOISE)]  # sigma that a generator starts from
LEAST_NOISE = 0.002  # EDM's smallest sigma, which the steps of a generator approach
MOST_STEPS = 4
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]  # of a generator
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$", max_length=100)]
Title = Annotated[str, Field(pattern="^[^\n]*$", max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A frozen section of a recipe: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Section):
    """A file to fetch; without a digest, that of its first use counts."""

    address: str
    sha256: Sha256 | None = None


class Network(Section):
    """The denoiser's architecture; teacher, fake score and generator share it."""

    architecture: Literal["ddpmpp", "ncsnpp", "adm", "edm2"]
    resolution: Size
    channels: Channels
    label_dim: Classes = 0
    augment_dim: Annotated[int, Field(ge=0, le=1024)] = 0
    model_channels: Width
    channel_mult: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=MOST_LEVELS)]
    num_blocks: Blocks
    attn_resolutions: Annotated[tuple[Size, ...], Field(max_length=MOST_LEVELS)] = ()
    logvar_channels: Width | None = None  # EDM2's uncertainty head; None: without it
    channel_mult_emb: Factor | None = None  # width of the embedding; None: as published (4; EDM2: the widest level)
    channels_per_head: Width | None = None  # of EDM2's attention; None: 64

    @model_validator(mode="after")
    def _levels_have_pixels(self) -> Network:
        if self.resolution >> (len(self.channel_mult) - 1) == 0:
            raise ValueError(f"channel_mult has {len(self.channel_mult)} levels, too many for {self.resolution} pixels")
        if self.architecture == "edm2" and self.augment_dim:
            raise ValueError("architecture edm2 has no augmentation labels: set augment_dim to 0")
        return self

    def of_generator(self) -> Network:
        """Return a generator's network from its teacher's: the same, without EDM2's uncertainty head, which no generator has."""
        return self.model_copy(update={"logvar_channels": None})


class Sampler(Section):
    """The teacher's own sampler (Heun, EDM algorithm 2)."""

    steps: Annotated[int, Field(ge=2, le=100_000)]
    state: Literal["float64", "float32"] = "float64"  # of the trajectory: EDM's is float64, EDM2's float32
    guidance: Annotated[float, Field(ge=1)] = 1.0  # towards D from the guide's D (teacher.guide); 1: none
    s_churn: Weight = 0.0
    s_min: Weight = 0.0
    s_max: float | None = None  # None: no upper limit
    s_noise: Weight = 1.0

    @property
    def nfe(self) -> int:
        """Network evaluations per image: no correction in the last step; with guidance each costs two."""
        return (2 * self.steps - 1) * (1 if self.guidance == 1 else 2)


class TeacherTraining(Section):
    """This project's training of the teacher (EDM's loss, equation 8) when there is none to fetch."""

    images: Positive
    batch: Batch
    learning_rate: Annotated[float, Field(gt=0)]
    decay_from: Count
    ema_half_life: Positive
    P_mean: float = -1.2
    P_std: Annotated[float, Field(gt=0)] = 1.2
    dropout: Rate = 0.0
    seed: Count = 0


class Guide(File):
    """The weaker network that guidance pushes away from: EDM2's is an unconditional XS."""

    network: Network


class Teacher(Section):
    """The pretrained diffusion model phi: where it comes from, what it is, how it is sampled."""

    address: str | None = None
    sha256: Sha256 | None = None
    licence: str
    network: Network
    sampler: Sampler
    guide: Guide | None = None
    train: TeacherTraining | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Teacher:
        if self.address is None and self.train is None:
            raise ValueError("needs an address to fetch from, or a train section to be trained by")
        if self.sampler.guidance != 1 and self.guide is None:
            raise ValueError(f"sampler.guidance {self.sampler.guidance:g} needs a guide network: add a guide section")
        return self


class Generator(File):
    """A finished SiD generator that SiD2A starts theta from; its network is the teacher's."""

    licence: str


class Latents(Section):
    """Images are encoded by a variational autoencoder, and the networks see its latents (EDM2)."""

    vae: str  # a diffusers repository
    revision: str | None = None
    licence: str
    image_resolution: Size  # of the images; dataset.resolution is that of the latents
    raw_mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)  # per channel, as EDM2 normalizes
    raw_std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)


class Dataset(Section):
    """The training set as shards: source, transform, size and labels."""

    source: Literal[
        "digits",
        "patches",
        "cifar10",
        "edm-zip",
        "folder",
        "ffhq",
        "afhqv2",
        "imagenet",
        "webdataset",
        "parquet",
        "labels",
    ]
    address: str | None = None  # of the archive or folder; None: it needs none, or everyone has to get their own
    sha256: Sha256 | None = None
    transform: Literal["none", "lanczos", "center-crop", "center-crop-dhariwal", "center-crop-upright"] = "none"
    latents: Latents | None = None
    licence: str
    resolution: Size
    channels: Channels
    classes: Classes = 0
    images: Positive | None = None  # how many there must be; None: as many as there are
    modes: Literal["strict", "convert"] = "strict"  # convert: palette, CMYK, bilevel and alpha as in EDM2's tool
    unreadable: Literal["fail", "skip"] = "fail"
    duplicates: Literal["fail", "skip", "keep"] = "fail"  # of pixels; keep where the published set has them

    @property
    def picture(self) -> tuple[int, int]:
        """Channels and resolution of the pictures that scores are of; those of latents once they are decoded."""
        return (3, self.latents.image_resolution) if self.latents else (self.channels, self.resolution)

    @model_validator(mode="after")
    def _latents_fit(self) -> Dataset:
        if self.latents is None:
            return self
        if len(self.latents.raw_mean) != self.channels or len(self.latents.raw_std) != self.channels:
            raise ValueError(f"latents.raw_mean and raw_std need one number for each of {self.channels} channels")
        if self.latents.image_resolution % self.resolution:
            raise ValueError(
                f"latents.image_resolution {self.latents.image_resolution} is no multiple of resolution {self.resolution}"
            )
        return self


class Method(Section):
    """Distillation: one code path for SiD, SiDA, SiD2A and Uni-Instruct (method paper, algorithm 1). Counts are in images."""

    name: Literal["sid", "sida", "sid2a", "uni"]
    divergence: Literal["fkl", "rkl", "js", "chi2", "fisher"] | None = None
    images: Positive
    batch: Batch
    loss_group: Batch
    alpha: float
    tmax: Annotated[float, Field(gt=0, le=1000)] = 800.0
    sigma_init: NoiseLevel = 2.5
    steps: Steps = 1  # network evaluations for an image of the generator (arXiv 2505.12674)
    P_mean: float = -1.2
    P_std: Annotated[float, Field(gt=0)] = 1.2
    fake_score_weight: Weight = 1.0  # ls
    discriminator_weight: Weight = 1.0  # lsd
    generator_weight: Weight = 100.0  # lsg
    adversarial_weight: Weight = 0.01  # lsg_gan
    generator_from: Count = 100_000  # theta steps only beyond this many images (adversarial methods)
    adversarial_from: Count = 200_000  # the adversarial term, or uni's weight, acts only beyond this many images
    fake_score_rate: Annotated[float, Field(gt=0)]  # lr
    generator_rate: Annotated[float, Field(gt=0)]  # glr
    decay_from: Count | None = None  # learning rates fall linearly to zero from here to `images`
    warm_up_decay_from: Count | None = None  # the fake score's does too, from here to `generator_from`; then anew
    generator_beta1: Rate = 0.0
    clip_fake_score: bool = True  # per element to [-1, 1]; EDM with the adversarial term only
    ema_half_life: Positive = 500_000
    ema_ramp: Ramp | None = EMA_RAMP  # its half-life is at most this share of the images seen; None: always as it is
    forced_normalization: bool = False  # EDM2: weights renormalized in training; SiD does so whatever this says
    dropout: Rate = 0.0
    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    precision: Precision = "float32"
    seed: Count = 0

    @property
    def title(self) -> str:
        """Name as the papers spell it: ``SiDA``, with several steps ``SiDA in 2 steps``."""
        name = {"sid": "SiD", "sida": "SiDA", "sid2a": "SiD2A", "uni": "Uni-Instruct"}[self.name]
        return name if self.steps == 1 else f"{name} in {self.steps} steps"

    @property
    def adversarial(self) -> bool:
        """True if the discriminator takes part (SiDA, SiD2A, Uni-Instruct)."""
        return self.name != "sid"

    @property
    def trained_from(self) -> int:
        """Images beyond which the generator is trained."""
        return self.generator_from if self.adversarial else 0

    @property
    def warm_up(self) -> int:
        """Images beyond which all parts of an iteration act."""
        return max(self.generator_from, self.adversarial_from) if self.adversarial else 0

    @property
    def half(self) -> bool:
        """True if the networks' inner tensors are of 16 bits."""
        return self.precision in ("float16", "bfloat16")

    @property
    def loss_scale(self) -> int:
        """Factor that losses are multiplied by for the backward pass, and gradients divided by in float32 afterwards.

        The published runs took each process's loss over its own share, on 4 processes, and averaged afterwards. float16 holds no
        smaller gradients than theirs: it runs on the same loss, whatever the number of processes.
        """
        return 4 if self.precision == "float16" else 1

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what older recipes could not say, as long as it says what they did: their digests stay."""
        fields = serialize(self)
        earlier = {"divergence": None, "ema_ramp": EMA_RAMP, "warm_up_decay_from": None, "steps": 1}
        return {name: value for name, value in fields.items() if name not in earlier or value != earlier[name]}

    @model_validator(mode="after")
    def _batch_holds_whole_groups(self) -> Method:
        if self.batch % self.loss_group:
            raise ValueError(f"batch {self.batch} is not a multiple of loss_group {self.loss_group}")
        return self

    @model_validator(mode="after")
    def _uni_has_a_divergence(self) -> Method:
        if self.name == "uni" and self.divergence is None:
            raise ValueError("method uni needs a divergence: fkl, rkl, js, chi2 or fisher")
        if self.name != "uni" and self.divergence is not None:
            raise ValueError(f"method {self.name} has no divergence: remove it, or use uni")
        return self

    @model_validator(mode="after")
    def _steps_go_downwards(self) -> Method:
        if self.steps > 1 and self.sigma_init <= LEAST_NOISE:
            raise ValueError(
                f"steps {self.steps} go from sigma_init down to {LEAST_NOISE}: raise sigma_init above that, or take 1"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_decays_in_the_warm_up(self) -> Method:
        start = self.warm_up_decay_from
        if start is not None and (not self.adversarial or start >= self.generator_from):
            raise ValueError(f"warm_up_decay_from {start} is not within the warm-up, which ends at generator_from")
        return self


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


class Evaluation(Section):
    """Measurement of scores. Selection and reporting use different seeds."""

    metric: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    extra_metrics: tuple[Literal["is", "kid", "precision_recall"], ...] = ()
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

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digests that recipes had before they could stop at noise or name a second metric."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in ("stop_at_noise", "second") or value}

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


class Targets(Section):
    """Numbers published for this benchmark; read by people, plan and reports, never by a step's key."""

    metric: str
    source: str
    teacher: float | None = None  # by teacher.sampler, without guidance
    teacher_source: str | None = None
    teacher_guided: float | None = None  # with classifier-free guidance
    teacher_autoguided: float | None = None
    sid: float | None = None
    sida: float | None = None  # None: not known for SiDA alone
    sid2a: float | None = None  # None: not known for SiD2A alone
    best: float | None = None  # of SiDA and SiD2A, where it is not known which of the two
    precision: Precision | None = None  # that they were distilled and scored in; None: not known

    @property
    def of_generators(self) -> bool:
        """True if the score of a generator was published, not its teacher's alone."""
        return any(score is not None for score in (self.sid, self.sida, self.sid2a, self.best))


class Expected(Section):
    """Numbers that this project measured: another run's mean scores of the same recipe lie in these ranges. Not inherited."""

    teacher: tuple[float, float]  # lowest and highest mean score of the teacher
    generator: tuple[float, float]  # lowest and highest mean score of the generator
    measured: str  # the numbers behind the ranges, when and where

    @model_validator(mode="after")
    def _ranges_go_upwards(self) -> Expected:
        for name in ("teacher", "generator"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} [{low}, {high}]: give the lower end first")
        return self


class Released(File):
    """The generator that the authors released for this run."""

    kimg: Positive  # images it has seen
    note: str | None = None


def _american(word: Any) -> Any:
    return "optimizer" if word == "optimiser" else word


Shard = Annotated[Literal["none", "optimizer", "full"], BeforeValidator(_american)]


class Execution(Section):
    """Settings that change no number: the layout of the work on machines."""

    processes: Batch = 1  # over all machines, one for each GPU
    threads: Batch = 1
    micro_batch: Batch | None = None  # per process: whole loss groups, or a part that several complete; None: the share
    sampling_batch: Batch | Literal["auto"] = 512  # images at once, at most; auto: the fastest, tried out
    checkpoint_every: Positive  # in images seen
    checkpoints_kept: Annotated[int, Field(ge=2, le=2**48)] = 2  # the newest; the best is kept besides
    keep_selections: bool = (
        False  # every scored generator stays in the store, named with its score in distill's manifest
    )
    non_finite_limit: Count = 100  # skipped samples and non-finite losses after which the run stops
    activation_checkpointing: bool = False  # less memory for more time: blocks are computed again in the backward pass
    deterministic: bool = False  # kernels that give the same bits each time, also on a GPU, for some of its speed
    channels_last: bool = False  # layout of the convolutions' tensors in memory; rounded otherwise, as with compile
    compile: bool = False  # torch.compile of each block; sums are rounded in another order, as on another machine
    shard: Shard = "none"  # divided among processes: Adam's moments and the EMA (optimizer), weights too (full)
    shard_over: Batch | None = None  # processes that hold one copy of what is divided; None: those of a machine

    @property
    def batch_limit(self) -> int:
        """Largest number of images at once if nothing is tried out."""
        return 512 if self.sampling_batch == "auto" else self.sampling_batch

    @model_validator(mode="before")
    @classmethod
    def _counts_all_machines(cls, fields: Any) -> Any:
        """Take ``nodes: 1`` of recipes that were stored before ``processes`` counted over all machines."""
        if isinstance(fields, dict) and "nodes" in fields:
            if fields["nodes"] != 1:
                raise ValueError("nodes: is not known any more: processes counts over all machines")
            return {name: value for name, value in fields.items() if name != "nodes"}
        return fields

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digests that recipes had then."""
        fields = serialize(self)
        new = {"shard": "none", "shard_over": None, "keep_selections": False}
        return {"nodes": 1, **{name: value for name, value in fields.items() if name not in new or value != new[name]}}


class Recipe(Section):
    """One benchmark, from data to score."""

    name: Name  # a part of names on Kubernetes and disks
    version: Positive
    description: str
    benchmark: Title | None = None  # the title of its row in the paper's table
    teacher: Teacher
    generator: Generator | None = None  # SiD2A's start
    dataset: Dataset
    method: Method
    evaluation: Evaluation
    gate: Gate
    execution: Execution
    targets: Targets | None = None
    released: Released | None = None
    expected: Expected | None = None

    @model_validator(mode="after")
    def _work_divides(self) -> Recipe:
        method, execution = self.method, self.execution
        divide_batch(method.batch, method.loss_group, execution.processes, execution.micro_batch)
        return self

    @property
    def score_precision(self) -> str:
        """Precision that generator, teacher and guide compute in when they are scored: float32, tf32, float16 or bfloat16."""
        return self.evaluation.precision or self.method.precision

    @property
    def in_another_precision(self) -> bool:
        """True if it is distilled or scored in another precision than the published numbers were."""
        published = self.targets.precision if self.targets else None
        return published is not None and {self.method.precision, self.score_precision} != {published}

    @property
    def group(self) -> Literal["paper", "others", "ours"]:
        """Who published scores of generators that it can be compared with: SiDA's paper, others, or nobody (ours)."""
        if self.targets is None or not self.targets.of_generators or self.in_another_precision or self.method.steps > 1:
            return "ours"
        return "paper" if PAPER in self.targets.source else "others"

    @property
    def title(self) -> str:
        """Name and method, for people: ``digits (SiDA)``."""
        return f"{self.name} ({self.method.title})"

    @model_validator(mode="after")
    def _sid2a_has_a_start(self) -> Recipe:
        if self.method.name == "sid2a" and self.generator is None:
            raise ValueError("method sid2a starts from a SiD generator: add a generator section with its address")
        if self.method.name != "sid2a" and self.generator is not None:
            raise ValueError(f"method {self.method.name} starts from the teacher: remove generator, or use sid2a")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        network, dataset = self.teacher.network, self.dataset
        if (network.resolution, network.channels) != (dataset.resolution, dataset.channels):
            raise ValueError(
                f"teacher.network is {network.channels} x {network.resolution}^2, "
                f"dataset is {dataset.channels} x {dataset.resolution}^2"
            )
        if self.method.augment and (network.augment_dim != AUGMENT_DIM or network.architecture == "edm2"):
            raise ValueError(
                f"method.augment {self.method.augment:g} needs a network with augment_dim {AUGMENT_DIM}, "
                f"this {network.architecture} has {network.augment_dim}: set method.augment to 0"
            )
        for field in ("logvar_channels", "channels_per_head"):
            if getattr(network, field) and network.architecture != "edm2":
                raise ValueError(f"teacher.network.{field}: only edm2 has it, this is {network.architecture}")
        if network.label_dim not in (0, dataset.classes):
            raise ValueError(f"teacher.network.label_dim {network.label_dim}, but dataset.classes {dataset.classes}")
        return self
