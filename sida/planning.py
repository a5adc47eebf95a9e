"""Needs of a recipe on given machines: memory of GPU and machine, hours, disk, storage. Counted costs; nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sida.errors import UserError
from sida.launch import grace
from sida.recipe import Recipe
from sida.recipe.batches import BatchDivision, divide_batch, divisors, micro_batches
from sida.training.distill_step import CHECKPOINT_NETWORKS

if TYPE_CHECKING:
    from sida.training.cost import IterationCost

GIB = 2**30
FLOAT32 = 4
BUCKET_BYTES = 32 * 2**20  # of gradients on their way (sida.worker.ranks); a larger parameter travels alone
CONTEXT_BYTES = 2 * GIB  # allowance: CUDA's context and libraries' workspaces
PROCESS_BYTES = 4 * GIB  # allowance of the machine's own memory: Python, torch, libraries of CUDA
FRAGMENTATION = 0.10  # allowance, of the activations
UTILIZATION = 0.35  # of the peak that the convolutions of these networks reach; measure yours with benchmarks/gpu.py

# FLOPs on one image. Inception-v3 at 299x299: 5.73 GMAC. Stable Diffusion's autoencoder at 512x512 by torch's counter
# (diffusers 0.30's AutoencoderKL in the ft-mse configuration).
DETECTOR_FLOPS = {"inception": 11.5e9, "digits": 1e6, "random": 1e7}
DECODE_FLOPS, ENCODE_FLOPS = 2.51e12, 1.12e12
# An element of a dropout mask: some 25 instructions on integers (an eighth of the 190 to 196 in the kernel's machine code for sm_80
# to sm_100), in the time of each of which the data sheet's peak has four floating-point operations.
MASK_FLOPS = 100


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory in GiB, dense peak in TFLOP/s by precision, as its maker's data sheet has them."""

    title: str
    memory_gib: float
    float32: float
    tf32: float  # float32's, where tensor cores know no TF32
    half: float  # float16 and bfloat16, accumulated in float32

    def peak(self, precision: str) -> float:
        """Return FLOP/s of matrix products and convolutions in a recipe's ``precision``."""
        return 1e12 * {"float32": self.float32, "tf32": self.tf32}.get(precision, self.half)


GPUS = {
    "b200": Gpu("NVIDIA B200", 180, 75, 1125, 2250),
    "h200": Gpu("NVIDIA H200 SXM", 141, 67, 494.5, 989),
    "h100": Gpu("NVIDIA H100 SXM", 80, 67, 494.5, 989),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 80, 51, 378, 756),
    "a100": Gpu("NVIDIA A100 80 GB", 80, 19.5, 156, 312),
    "a100-40": Gpu("NVIDIA A100 40 GB", 40, 19.5, 156, 312),
    "l40s": Gpu("NVIDIA L40S", 48, 91.6, 183, 362),
    "a10": Gpu("NVIDIA A10", 24, 31.2, 62.5, 125),
    "l4": Gpu("NVIDIA L4", 24, 30.3, 60, 121),
    "v100": Gpu("NVIDIA V100 SXM2 32 GB", 32, 15.7, 15.7, 125),
    "t4": Gpu("NVIDIA T4", 16, 8.1, 8.1, 65),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 24, 82.6, 82.6, 165),
}


@dataclass(frozen=True)
class Machines:
    """Machines that the recipe would run on."""

    nodes: int
    gpus: int  # per node
    gpu: Gpu
    utilization: float = UTILIZATION

    @property
    def world(self) -> int:
        """Processes, one for each GPU."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Work:
    """GPU hours, by purpose."""

    distilling: float
    selecting: float  # in-loop scoring
    scoring_teacher: float
    scoring: float
    encoding: float  # latents

    @property
    def total(self) -> float:
        return self.distilling + self.selecting + self.scoring_teacher + self.scoring + self.encoding

    @property
    def selecting_share(self) -> float:
        """In-loop scoring's part of the distillation step."""
        return self.selecting / (self.distilling + self.selecting)


@dataclass(frozen=True)
class ResourcePlan:
    """Needs of a recipe on machines."""

    recipe: Recipe
    cost: IterationCost
    machines: Machines
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
        return grace.planned(round(_checkpoint(self.cost)))

    @property
    def hours(self) -> float:
        """Wall-clock time of all steps, all GPUs at work."""
        return self.work.total / self.machines.world


def plan(recipe: Recipe, cost: IterationCost, machines: Machines, micro_batch: int | None = None) -> ResourcePlan:
    """Compute memory, hours and storage. Raises UserError when the batch does not divide among the GPUs."""
    division = check_division(recipe, machines, micro_batch)
    memory, work = _memory(cost, machines, division.micro_batch), _work(recipe, cost, machines)
    storage = _storage(recipe, cost)
    return ResourcePlan(
        recipe, cost, machines, division, memory, work, storage, _host(cost, machines), _disk(cost, storage)
    )


def check_division(recipe: Recipe, machines: Machines, micro_batch: int | None = None) -> BatchDivision:
    """Return how the batch divides, with this micro-batch or the recipe's. Raises UserError if it or the GPUs do not divide it."""
    method, world = recipe.method, machines.world
    if method.batch % world:
        raise UserError(
            f"batch {method.batch} does not divide among {world} GPUs ({machines.nodes} x {machines.gpus}): use "
            f"{', '.join(map(str, divisors(method.batch)))} (execution.processes, or SIDA_WORKERS)"
        )
    share, possible = method.batch // world, micro_batches(method.batch, method.loss_group, world)
    wanted = micro_batch or min(recipe.execution.micro_batch or share, share)
    if wanted != share and wanted not in possible:
        raise UserError(
            f"micro-batch {wanted}: each GPU's share of {share} images makes whole loss groups of {method.loss_group} with: "
            f"{', '.join(map(str, possible))}: give one of them as execution.micro_batch, or to `plan` as --micro-batch"
        )
    return divide_batch(method.batch, method.loss_group, world, wanted)


def _memory(cost: IterationCost, machines: Machines, micro: int) -> dict[str, float]:
    network = cost.parameters * FLOAT32
    activations = max(cost.A.held_bytes(micro), cost.B.held_bytes(micro))
    return {
        "weights (fake score, generator)": 2 * network,
        "teacher": network,
        "EMA, and the best so far": 2 * network,
        "gradients (one network at a time)": network,
        "Adam (two moments each)": 4 * network,
        "activations at the micro-batch": activations,
        "reduction between GPUs": max(BUCKET_BYTES, cost.largest * FLOAT32) if machines.world > 1 else 0,
        "allowance (context, fragments)": CONTEXT_BYTES + FRAGMENTATION * activations,
    }


def _work(recipe: Recipe, cost: IterationCost, machines: Machines) -> Work:
    evaluation, latents, forward = recipe.evaluation, recipe.dataset.latents, cost.forward_flops
    precision, scored = recipe.method.precision, recipe.score_precision

    def hours(flops: float, precision: str = "float32") -> float:  # float32: of the detector, and of the VAE
        return flops / (machines.gpu.peak(precision) * machines.utilization) / 3600

    def scoring(images: int, evaluations: int, precision: str) -> float:
        return hours(images * evaluations * forward, precision) + hours(images * per_image)

    per_image = DETECTOR_FLOPS[evaluation.detector.kind] + (DECODE_FLOPS if latents else 0)
    images = evaluation.images * evaluation.ranges
    by_teacher = evaluation.images * (evaluation.teacher_ranges or evaluation.ranges)
    seen = recipe.method.images
    moved = seen - min(seen, recipe.method.generator_from if recipe.method.adversarial else 0)  # phase B's
    selected = (seen // evaluation.selection_every) * evaluation.selection_images
    encoded = (recipe.dataset.images or 0) if latents and recipe.dataset.source != "labels" else 0
    return Work(
        distilling=hours(seen * cost.A.flops + moved * cost.B.flops, precision)
        + hours((seen * cost.A.masks + moved * cost.B.masks) * MASK_FLOPS),
        selecting=scoring(selected, 1, precision),
        scoring_teacher=scoring(by_teacher, recipe.teacher.sampler.nfe, scored),
        scoring=scoring(images, 1, scored),
        encoding=hours(encoded * ENCODE_FLOPS),
    )


def _checkpoint(cost: IterationCost) -> float:
    return CHECKPOINT_NETWORKS * cost.parameters * FLOAT32


def _host(cost: IterationCost, machines: Machines) -> dict[str, float]:
    return {
        "copy of a checkpoint": _checkpoint(cost),  # while it is written the training goes on
        "allowance (processes)": machines.gpus * PROCESS_BYTES,
    }


def _disk(cost: IterationCost, storage: dict[str, float]) -> dict[str, float]:
    """Return what lies under TMPDIR, and under SIDA_CACHE where the store is S3; a resumed run reads its checkpoint there."""
    read = storage["teacher"] + storage["starting generator"] + storage["data set"]
    return {"TMPDIR: a checkpoint": _checkpoint(cost), "SIDA_CACHE, with an S3 store": read + _checkpoint(cost)}


def _storage(recipe: Recipe, cost: IterationCost) -> dict[str, float]:
    network, dataset = cost.parameters * FLOAT32, recipe.dataset
    values = dataset.channels * dataset.resolution**2
    record = 4 + (2 * values * FLOAT32 if dataset.latents else values)  # label; means and deviations, or bytes
    record = 4 if dataset.source == "labels" else record
    return {
        "teacher": network,
        "starting generator": network if recipe.generator else 0,
        "data set": record * (dataset.images or 0),
        f"checkpoints ({recipe.execution.checkpoints_kept} kept)": _checkpoint(cost)
        * recipe.execution.checkpoints_kept,
        "generator": network,
    }


def advice(plan: ResourcePlan) -> list[str]:
    """Return changes that may make a plan fit; the first that helps comes first."""
    method, gpu = plan.recipe.method, plan.machines.gpu
    fixed = plan.memory_bytes - plan.memory["activations at the micro-batch"] * (1 + FRAGMENTATION)
    room = gpu.memory_gib * GIB - fixed
    changes = []
    possible = micro_batches(method.batch, method.loss_group, plan.machines.world)
    fitting = [micro for micro in possible if _activations(plan, micro) <= room]
    if fitting:
        changes.append(f"execution.micro_batch: {max(fitting)} (the numbers stay the same)")
    if larger := [key for key, other in GPUS.items() if other.memory_gib * GIB >= plan.memory_bytes]:
        changes.append(f"--gpu {min(larger, key=lambda key: GPUS[key].memory_gib)}")
    if not method.half:
        changes.append("method.precision: bfloat16 halves most activations (the numbers change)")
    divisors = (group for group in range(method.loss_group - 1, 0, -1) if method.loss_group % group == 0)
    smaller = next((group for group in divisors if _activations(plan, group) <= room), None)
    if not fitting and smaller:
        group = "method.loss_group and execution.micro_batch"
        changes.append(f"{group}: {smaller} (a part of the method: the numbers change)")
    if not changes:
        changes.append("no GPU known here holds it: the networks' states alone need more; sharding is not there yet")
    return changes


def _activations(plan: ResourcePlan, micro: int) -> float:
    saved = max(plan.cost.A.held_bytes(micro), plan.cost.B.held_bytes(micro))
    return saved * (1 + FRAGMENTATION)
