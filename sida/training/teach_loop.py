"""Training a teacher of one's own: EDM's denoising loss, EMA, seeded draws (arXiv 2206.00364, equation 8).

``teach`` is the worker's side; ``sida.training.teach_step`` holds the step.
"""

from __future__ import annotations

import copy
import tempfile
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import SidaError
from sida.launch.spec import TeachOutcome, TeachSpec
from sida.manifests import DatasetResult
from sida.numerics.draws import Draws
from sida.numerics.ema import ema_beta, update_ema
from sida.numerics.losses import denoising_loss
from sida.numerics.networks.build import build_network
from sida.numerics.networks.layers import key_dropout
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.schedules import fake_score_sigma
from sida.recipe import EMA_RAMP, TeacherTraining
from sida.teachers.files import save_network
from sida.training.gradients import Updates
from sida.training.loop import Stop, TrainingRun, stop_on_sigterm
from sida.training.state import Parts
from sida.worker.job import Job

WARM_UP_IMAGES = 20_000


def teach(job: Job[TeachSpec]) -> TeachOutcome | None:
    """Train the recipe's teacher to the end and publish its EMA; the first process returns it."""
    train = job.recipe.teacher.train
    if train is None:
        raise SidaError(f"recipe {job.recipe.name}: teacher.train is missing")
    with stop_on_sigterm() as stop:
        run = TeachRun(job, train)
        with closing(run.writer):
            run.train(stop)
            return run.outcome()


class TeachRun(TrainingRun):
    """Network, its EMA and Adam; a function of the images seen alone."""

    job: Job[TeachSpec]

    def __init__(self, job: Job[TeachSpec], training: TeacherTraining) -> None:
        super().__init__(job, training.images, training.batch)
        self.training, self.draws = training, Draws(training.seed)
        dataset = job.manifest(job.spec.dataset, DatasetResult).result
        device = job.processes.device
        self.data = ShuffledData(Shards(job.store, dataset), training.seed, device, stride=training.batch)
        self.network = fresh_network(job, training).to(device).train()
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.updates = Updates(self.network, job.processes, (0.9, 0.99))
        self.resume()

    def parts(self) -> Parts:
        """All that is trained."""
        return {"network": self.network, "ema": self.ema, "adam": self.updates}

    def iterate(self) -> dict[str, Tensor]:
        """Do one update on this process's share of the batch; returns its mean loss."""
        training, share = self.training, self.job.processes.share(self.batch)
        indices = self.seen + torch.arange(share.start, share.stop, device=self.job.processes.device)
        x, c = self.data.batch(self.seen + torch.arange(share.start, share.stop))
        sigma = fake_score_sigma(self.draws.normal("teach/n1", indices, ()), training.P_mean, training.P_std)
        noise = self.draws.normal("teach/eps", indices, x.shape[1:]) * sigma[:, None, None, None]
        key_dropout(self.network, self.draws, "teach", indices)
        loss = denoising_loss(self.network(x + noise, sigma, c), x, sigma)
        self.updates.zero_grad()
        self.updates.begin_round(last=True)
        (loss.sum() / (self.batch * x[0].numel())).backward()
        self.updates.step(training.learning_rate * self._rate())
        beta = ema_beta(self.seen, self.batch, training.ema_half_life, EMA_RAMP)
        update_ema([*self.ema.parameters()], [*self.network.parameters()], beta)
        return {"loss": loss.detach().mean()}

    def evaluate(self, stop: Stop) -> None:
        """Do nothing: a teacher is scored when it is whole."""

    def _rate(self) -> float:
        warm = min(1.0, (self.seen + self.batch) / WARM_UP_IMAGES)
        left = (self.images - self.seen) / max(1, self.images - self.training.decay_from)
        return warm * max(0.0, min(1.0, left))

    def outcome(self) -> TeachOutcome | None:
        """Store the EMA (the first process)."""
        if not self.job.processes.first:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self.job.recipe.name}-teacher.safetensors"
            network = self.job.recipe.teacher.network.model_dump(mode="json", exclude_defaults=True)
            save_network(path, self.ema.state_dict(), network)
            return TeachOutcome(teacher=self.job.put(path, path.name), images_seen=self.seen)


def fresh_network(job: Job[TeachSpec], training: TeacherTraining) -> Denoiser:
    """The recipe's network with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        return build_network(job.recipe.teacher.network.model_dump(), training.dropout)
