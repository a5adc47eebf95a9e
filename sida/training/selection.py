"""In-loop evaluation: scores on the selection seeds, the best generator so far, pictures of what the generator makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sida import devices
from sida.data.latents import decoder_of
from sida.data.shards import one_hot
from sida.launch.spec import DistillSpec
from sida.manifests import DatasetResult, ReferenceResult, Selected
from sida.numerics.frechet import frechet_distance
from sida.numerics.networks.precondition import Denoiser
from sida.scoring.detector import load_detector
from sida.scoring.measure import decoded, generator_images
from sida.scoring.protocol import MakeImages, pixels_of, range_moments
from sida.scoring.reference import load_statistics
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object
from sida.training.state import State, assign_all
from sida.worker.job import Job
from sida.worker.ranks import Processes

SELECTION_SEED = 0  # selection uses seeds 0 .. selection_images - 1; reported ranges start far above


class Stopped(Exception):
    """The job was asked to stop while it was scoring; that score is due when it continues."""


class Selection:
    """The EMA generator's scores, and the best generator so far."""

    def __init__(self, job: Job[DistillSpec], generator: Denoiser, dataset: DatasetResult) -> None:
        self._job, self._generator, self._dataset = job, generator, dataset
        device = job.processes.device
        self._reference = job.manifest(job.spec.reference, ReferenceResult).result
        self._detector = load_detector(fetch_object(job.store, self._reference.detector)).to(device)
        self._real = load_statistics(job.store, self._reference)
        self.blank = float(self._real[1].trace())  # the score of images that are all alike, with the data's mean
        self._make = generator_images(generator, job.recipe.method.sigma_init, job.recipe.method.steps)
        if (latents := job.recipe.dataset.latents) is not None:
            self._make = decoded(self._make, decoder_of(latents, device))
        self.best: dict[str, Tensor] = {}
        self.best_score, self.best_seen = math.inf, 0
        self.since_best = 0  # selections since the best one
        self.kept: list[
            dict[str, Any]
        ] = []  # of the first process: every scored generator, where the recipe keeps them
        self.due = False
        self._batch: int | None = None

    def score(self, stop: Callable[[], bool]) -> float:
        """Score the generator, which each process has whole. Raises Stopped, on all processes.

        The first process's number is that of all, who decide by it: another processor may round the last bit otherwise.
        """
        processes, count = self._job.processes, self._job.recipe.evaluation.selection_images
        if self._batch is None:
            limit, classes = self._job.recipe.execution.batch_limit, len(self._dataset.histogram)
            self._batch = largest_batch(self._make, self._detector, classes, limit, processes)
        votes = -(-count // self._batch) // processes.world  # batches that all have

        def vote(images: int) -> None:
            nonlocal votes
            votes -= 1
            if votes >= 0 and processes.agree(stop()):
                raise Stopped

        moments = range_moments(
            self._make,
            self._detector,
            histogram=self._dataset.histogram,
            first_seed=SELECTION_SEED,
            count=count,
            features=self._reference.features,
            batch=self._batch,
            processes=processes,
            report=vote,
        )
        distance = None
        if processes.first:
            mean, covariance = (part.cpu() for part in moments.mean_cov())  # the reference is on the host
            distance = frechet_distance(mean, covariance, *self._real)
        return float(processes.from_first(distance))

    def keep(self, seen: int, score: float) -> None:
        """Note a score; keep the generator if it is the best so far."""
        self.due = False
        self.since_best += 1
        if score < self.best_score:
            self.best_score, self.best_seen, self.since_best = score, seen, 0
            self.best = {key: t.detach().clone() for key, t in self._generator.state_dict().items()}

    def keep_file(self, generator: ObjectRef, seen: int, score: float) -> None:
        """Note where a scored generator lies, whatever its score."""
        self.kept.append(Selected(images_seen=seen, score=score, weights=generator).model_dump(mode="json"))

    def picture(self, seen: int, score: float) -> bytes:
        """PNG of what the generator makes now."""
        title = f"{seen:,} images, {self._reference.metric} {score:.4g}"
        return sample_grid(self._make, len(self._dataset.histogram), title, self._job.processes.device)

    def state_dict(self) -> dict[str, Any]:
        """The best generator with its place and score, and what is due."""
        values = {name: getattr(self, name) for name in ("best_score", "best_seen", "since_best", "due", "kept")}
        return values | {"batch": self._batch} | {f"best/{key}": tensor for key, tensor in self.best.items()}

    def load_state_dict(self, state: State, /) -> None:
        """Continue from a checkpoint."""
        if best := state.under("best/"):
            self.best = {key: torch.empty_like(t) for key, t in self._generator.state_dict().items()}
            assign_all(self.best, best)
        self.best_score, self.best_seen, self.since_best = state["best_score"], state["best_seen"], state["since_best"]
        if self.best_seen and not self.best:
            raise ValueError(f"the tensors {state.full_name('best/')}... are not there")
        self.due, self._batch = state["due"], state["batch"]
        self.kept = list(state["kept"]) if "kept" in state else []  # older ones have none


def largest_batch(make: MakeImages, detector: nn.Module, classes: int, limit: int, processes: Processes) -> int:
    """Images that generator and detector hold at once: ``limit``, halved as often as any process's GPU needs; the same for all."""
    batch = limit
    if devices.apart(processes.device):
        while batch > 1 and not _fits(make, detector, classes, batch, processes.device):
            batch //= 2
        processes.meet()
    return int(-processes.maximum(torch.tensor([-batch], dtype=torch.float64))[0])


def _fits(make: MakeImages, detector: nn.Module, classes: int, batch: int, device: torch.device) -> bool:
    seeds = torch.arange(batch, device=device)
    try:
        with torch.no_grad():
            images = make(seeds, one_hot(torch.zeros(batch, dtype=torch.int64), classes).to(device))
            detector(pixels_of(images, 0))
    except torch.OutOfMemoryError:
        devices.release_memory(device)
        return False
    return True


def sample_grid(make: MakeImages, classes: int, title: str, device: torch.device) -> bytes:
    """PNG of the images of seeds 0, 1, ...; a column for each of up to ten classes."""
    from sida.report.grid import GRID_COLUMNS, GRID_ROWS, ImagePanel, draw_panels

    seeds = torch.arange(GRID_ROWS * GRID_COLUMNS, device=device)
    labels = one_hot(seeds.cpu() % GRID_COLUMNS % max(classes, 1), classes).to(device)
    with torch.no_grad():
        images = make(seeds, labels)
    return draw_panels([ImagePanel(title, images)])
