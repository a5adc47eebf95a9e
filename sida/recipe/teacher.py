"""Fields of the teacher and of the generator that SiD2A starts from: files, network, sampler, training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sida.recipe.section import Batch, Count, File, Positive, Rate, Section, Sha256, Size, Weight, Width

Channels = Annotated[int, Field(ge=1, le=1024)]  # of an image
Classes = Annotated[int, Field(ge=0, le=1_000_000)]
Factor = Annotated[int, Field(ge=1, le=64)]  # of widths
Blocks = Annotated[int, Field(ge=1, le=32)]  # of a level
MOST_LEVELS = 10


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
