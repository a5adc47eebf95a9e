"""A recipe whole, and what its sections must agree on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sida.recipe.batches import divide_batch
from sida.recipe.dataset import Dataset
from sida.recipe.evaluation import Evaluation, Gate
from sida.recipe.execution import Execution
from sida.recipe.method import Method
from sida.recipe.published import PAPER, Expected, Released, Targets
from sida.recipe.section import Positive, Section
from sida.recipe.teacher import Generator, Teacher

AUGMENT_DIM = 9  # labels of EDM's augmentation pipe (sida.numerics.augment)
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$", max_length=100)]
Title = Annotated[str, Field(pattern="^[^\n]*$", max_length=200)]


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
