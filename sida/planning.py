"""Needs of a recipe on given machines: memory of GPU and machine, hours, disk, storage. Counted costs; nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sida.errors import UserError
from sida.gpus import Machines
from sida.launch import grace
from sida.layouts import FLOAT32, Layout
from sida.recipe import Recipe
from sida.recipe.batches import BatchDivision, divide_batch, micro_batches
from sida.training.distill_step import CHECKPOINT_NETWORKS, written_bytes

if TYPE_CHECKING:
    from sida.training.cost import IterationCost, PhaseCost

GIB = 2**30
CONTEXT_BYTES = 2 * GIB  # allowance: CUDA's context and libraries' workspaces
PROCESS_BYTES = 4 * GIB  # allowance of the machine's own memory: Python, torch, libraries of CUDA
FRAGMENTATION = 0.10  # allowance, of the activations

# FLOPs on one image. Inception-v3 at 299x299: 5.73 GMAC; ViT-L/14 at 224x224 (257 tokens): 81 GMAC. Stable Diffusion's autoencoder
# at 512x512 by torch's counter (diffusers 0.30's AutoencoderKL in the ft-mse configuration).
DETECTOR_FLOPS = {"inception": 11.5e9, "dinov2": 162e9, "digits": 1e6, "random": 1e7}
DECODE_FLOPS, ENCODE_FLOPS = 2.51e12, 1.12e12
# An element of a dropout mask: some 25 instructions on integers (an eighth of the 190 to 196 in the kernel's machine code for sm_80
# to sm_100), in the time of each of which the data sheet's peak has four floating-point operations.
MASK_FLOPS = 100


@dataclass(frozen=True)
class Work:
    """GPU hours, by purpose."""

    distilling: float
    waiting: float  # for messages of other GPUs, while distilling
    selecting: float  # in-loop scoring
    scoring_teacher: float
    scoring: float
    encoding: float  # latents
    teaching: float = 0.0  # of a teacher that is trained, not fetched

    @property
    def total(self) -> float:
        return self._step + self.scoring_teacher + self.scoring + self.encoding + self.teaching

    @property
    def selecting_share(self) -> float:
        """In-loop scoring's part of the distillation step."""
        return self.selecting / self._step

    @property
    def _step(self) -> float:
        return self.distilling + self.waiting + self.selecting


@dataclass(frozen=True)
class ResourcePlan:
    """Needs of a recipe on machines."""

    recipe: Recipe
    cost: IterationCost
    machines: Machines
    layout: Layout
    division: BatchDivision
    memory: dict[str, float]  # bytes per GPU, by part
    work: Work
    storage: dict[str, float]  # bytes in the store, by part
    host: dict[str, float]  # bytes of a machine's own memory, by part; the first machine, which needs the most
    disk: dict[str, float]  # bytes on a machine's disk beside the store, by part

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """True if a GPU holds it."""
        return self.memory_bytes <= self.machines.gpu.memory_gib * GIB

    @property
    def grace_seconds(self) -> int:
        """Seconds that a TrainJob's pods get to end: to finish an iteration and write a checkpoint."""
        return grace.planned(
            written_bytes(self.recipe, self.cost.parameters * FLOAT32, self.machines.world, self.machines.gpus)
        )

    @property
    def hours(self) -> float:
        """Wall-clock time of all steps, all GPUs at work."""
        return self.work.total / self.machines.world


def plan(recipe: Recipe, cost: IterationCost, machines: Machines, micro_batch: int | None = None) -> ResourcePlan:
    """Compute memory, hours and storage. Raises UserError when the batch does not divide among the GPUs."""
    division, layout = check_division(recipe, machines, micro_batch), Layout.of(recipe, machines)
    memory, work = _memory(cost, layout, division), _work(recipe, cost, layout, division)
    storage = _storage(recipe, cost)
    host, disk = _host(cost, layout), _disk(cost, layout, storage)
    return ResourcePlan(recipe, cost, machines, layout, division, memory, work, storage, host, disk)


def check_division(recipe: Recipe, machines: Machines, micro_batch: int | None = None) -> BatchDivision:
    """Return how the batch divides, with this micro-batch or the recipe's. Raises UserError if it or the GPUs do not divide it.

    Or if ``execution.shard_over`` does not divide the GPUs.
    """
    Layout.of(recipe, machines)
    method, micro = recipe.method, micro_batch or recipe.execution.micro_batch
    try:
        return divide_batch(method.batch, method.loss_group, machines.world, micro)
    except ValueError as error:
        raise UserError(str(error)) from error


def possible_micro_batches(recipe: Recipe, machines: Machines) -> list[int]:
    """Return those that each GPU's share divides into, small ones first."""
    return micro_batches(recipe.method.batch, recipe.method.loss_group, machines.world)


def _memory(cost: IterationCost, layout: Layout, division: BatchDivision) -> dict[str, float]:
    activations = layout.activations(cost, division.micro_batch)
    return {
        **layout.memory(cost, division.rounds),
        "activations at the micro-batch": activations,
        "allowance (context, fragments)": CONTEXT_BYTES + FRAGMENTATION * activations,
    }


def _work(recipe: Recipe, cost: IterationCost, layout: Layout, division: BatchDivision) -> Work:
    method, machines = recipe.method, layout.machines
    evaluation, latents, forward = recipe.evaluation, recipe.dataset.latents, cost.forward_flops
    precision, scored = method.precision, recipe.score_precision

    def hours(flops: float, precision: str = "float32") -> float:  # float32: of the detector, and of the VAE
        return flops / (machines.gpu.peak(precision) * machines.utilization) / 3600

    def phase(images: float, part: PhaseCost) -> float:
        return hours(images * part.flops, precision) + hours(images * part.masks * MASK_FLOPS)

    def scoring(images: int, evaluations: int, precision: str, looks: int = 1, second: float = 0) -> float:
        detecting = hours(images * (looks * per_image + second))
        return hours(images * evaluations * forward, precision) + detecting

    per_image = DETECTOR_FLOPS[evaluation.detector.kind] + (DECODE_FLOPS if latents else 0)
    second = DETECTOR_FLOPS[evaluation.second.detector.kind] if evaluation.second else 0  # does not select
    images = evaluation.images * evaluation.ranges
    by_teacher = (recipe.gate.teacher_images or evaluation.images) * (evaluation.teacher_ranges or evaluation.ranges)
    seen = method.images
    moved = seen - min(seen, method.generator_from if method.adversarial else 0)  # phase B's
    round_seconds = (3600 * phase(division.micro_batch, cost.A), 3600 * phase(division.micro_batch, cost.B))
    rounds = division.rounds
    waits_a, waits_b = layout.waits(cost, rounds, round_seconds, adversarial=method.adversarial, steps=method.steps)
    selected = (seen // evaluation.selection_every) * evaluation.selection_images
    encoded = (recipe.dataset.images or 0) if latents and recipe.dataset.source != "labels" else 0
    taught = recipe.teacher.train.images if recipe.teacher.train and recipe.teacher.address is None else 0
    flops, masks = cost.teaching
    return Work(
        distilling=phase(seen, cost.A) + phase(moved, cost.B),
        waiting=machines.world * (seen * waits_a + moved * waits_b) / method.batch / 3600,
        selecting=scoring(selected, method.steps, precision),
        scoring_teacher=scoring(by_teacher, recipe.teacher.sampler.nfe, scored, second=second),
        scoring=scoring(images, method.steps, scored, method.steps, second),  # the images of each step are looked at
        encoding=hours(encoded * ENCODE_FLOPS),
        teaching=hours(taught * (flops + masks * MASK_FLOPS)),
    )


def _checkpoint(cost: IterationCost) -> float:
    return CHECKPOINT_NETWORKS * cost.parameters * FLOAT32


def _host(cost: IterationCost, layout: Layout) -> dict[str, float]:
    return {
        "copy of a checkpoint": _written(cost, layout),  # while it is written the training goes on
        "allowance (processes)": layout.machines.gpus * PROCESS_BYTES,
    }


def _written(cost: IterationCost, layout: Layout) -> float:
    """Return the bytes of a checkpoint that the first machine writes: each process of the first copy has its own part."""
    return _checkpoint(cost) * min(layout.over, layout.machines.gpus) / layout.over


def _disk(cost: IterationCost, layout: Layout, storage: dict[str, float]) -> dict[str, float]:
    """Return what lies under TMPDIR, and under SIDA_CACHE where the store is S3; a resumed run reads its checkpoint there."""
    read = storage["teacher"] + storage["starting generator"] + storage["data set"]
    return {"TMPDIR: a checkpoint": _written(cost, layout), "SIDA_CACHE, with an S3 store": read + _checkpoint(cost)}


def _storage(recipe: Recipe, cost: IterationCost) -> dict[str, float]:
    network, dataset = cost.parameters * FLOAT32, recipe.dataset
    values = dataset.channels * dataset.resolution**2
    record = 4 + (2 * values * FLOAT32 if dataset.latents else values)  # label; means and deviations, or bytes
    record = 4 if dataset.source == "labels" else record
    selections = recipe.method.images // recipe.evaluation.selection_every * recipe.execution.keep_selections
    return {
        "teacher": network,
        "starting generator": network if recipe.generator else 0,
        "data set": record * (dataset.images or 0),
        f"checkpoints ({recipe.execution.checkpoints_kept} kept)": _checkpoint(cost)
        * recipe.execution.checkpoints_kept,
        "generator": network,
    } | ({"generators of all selections": network * selections} if selections else {})
