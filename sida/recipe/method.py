"""Fields of the distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sida.recipe.section import Batch, Count, Positive, Precision, Rate, Section, Weight

EMA_RAMP = 0.05  # of the published runs
MOST_NOISE = 1e6  # images have a variance of about 1
NoiseLevel = Annotated[float, Field(gt=0, lt=MOST_NOISE)]  # sigma that a generator starts from
LEAST_NOISE = 0.002  # EDM's smallest sigma, which the steps of a generator approach
MOST_STEPS = 4
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]  # of a generator
Ramp = Annotated[float, Field(gt=0)]


class Method(Section):
    """Distillation: one code path for SiD, SiDA, SiD2A and Uni-Instruct (method paper, algorithm 1). Counts are in images."""

    LATER = ("divergence", "ema_ramp", "warm_up_decay_from", "steps")

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
