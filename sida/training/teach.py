"""Training a teacher of one's own: EDM's denoising loss, EMA, seeded draws (arXiv 2206.00364, equation 8).

``teach`` is the worker's side; ``sida.training.teacher`` holds the step.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from sida import progress
from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import SidaError
from sida.launch.spec import TeachOutcome, TeachSpec
from sida.manifests import DatasetResult
from sida.numerics.draws import Draws
from sida.numerics.ema import ema_beta, update_ema
from sida.numerics.losses import denoising_loss, sanitise_gradients
from sida.numerics.networks.build import build_network
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.schedules import fake_score_sigma
from sida.progress import Progress
from sida.recipe import TeacherTraining
from sida.teachers.files import save_network
from sida.training import checkpoint
from sida.training.checkpoint import Checkpoint
from sida.training.dropout import key_dropout
from sida.training.gradients import GradientSum
from sida.training.writer import Writer
from sida.worker.job import Job
from sida.worker.ranks import Processes

WARM_UP_IMAGES = 20_000
REPORT_EVERY = 8


class TeacherRun:
    """Network, its EMA and Adam; a function of the images seen alone."""

    def __init__(self, network: Denoiser, train: TeacherTraining, data: ShuffledData, processes: Processes) -> None:
        self.train, self.data, self.processes = train, data, processes
        self.draws = Draws(train.seed)
        self.network = network.to(processes.device).train()
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=train.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.gradients = GradientSum(self.network, processes)
        self.seen = 0

    def iterate(self) -> Tensor:
        """One update on this process's share of the batch; returns its mean loss."""
        train, share = self.train, self.processes.share(self.train.batch)
        indices = self.seen + torch.arange(share.start, share.stop, device=self.processes.device)
        x, c = self.data.batch(self.seen + torch.arange(share.start, share.stop))
        sigma = fake_score_sigma(self.draws.normal("teach/n1", indices, ()), train.P_mean, train.P_std)
        noise = self.draws.normal("teach/eps", indices, x.shape[1:]) * sigma[:, None, None, None]
        key_dropout(self.network, self.draws, "teach", indices)
        loss = denoising_loss(self.network(x + noise, sigma, c), x, sigma)
        self.optimiser.zero_grad(set_to_none=True)
        self.gradients.arm()
        (loss.sum() / (train.batch * x[0].numel())).backward()
        sanitise_gradients(self.gradients.finish())
        for group in self.optimiser.param_groups:
            group["lr"] = train.learning_rate * self._rate()
        self.optimiser.step()
        update_ema(self.ema, self.network, ema_beta(self.seen, train.batch, train.ema_half_life))
        self.seen += train.batch
        return loss.detach().mean()

    def _rate(self) -> float:
        warm = min(1.0, (self.seen + self.train.batch) / WARM_UP_IMAGES)
        left = (self.train.images - self.seen) / max(1, self.train.images - self.train.decay_from)
        return warm * max(0.0, min(1.0, left))

    def tensors(self) -> dict[str, Tensor]:
        """All state, by name."""
        found = {f"network/{key}": tensor for key, tensor in self.network.state_dict().items()}
        found |= {f"ema/{key}": tensor for key, tensor in self.ema.state_dict().items()}
        for key, parameter in self.network.named_parameters():
            for field, value in self.optimiser.state.get(parameter, {}).items():
                found[f"adam/{field}/{key}"] = value
        return found

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint."""
        for name, module in (("network/", self.network), ("ema/", self.ema)):
            module.load_state_dict(
                {key.removeprefix(name): t for key, t in saved.tensors.items() if key.startswith(name)}
            )
        for key, parameter in self.network.named_parameters():
            fields = {f: saved.tensors.get(f"adam/{f}/{key}") for f in ("step", "exp_avg", "exp_avg_sq")}
            if fields["step"] is not None:
                self.optimiser.state[parameter] = {
                    field: t.to(parameter.device) for field, t in fields.items() if t is not None
                }
        self.seen = saved.state["seen"]


def fresh_network(job: Job[TeachSpec], train: TeacherTraining) -> Denoiser:
    """The recipe's network with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(train.seed)
        return build_network(job.recipe.teacher.network.model_dump(), train.dropout)


def teach(job: Job[TeachSpec]) -> TeachOutcome | None:
    """Train the recipe's teacher to the end and publish its EMA; the first process returns it."""
    train = job.recipe.teacher.train
    if train is None:
        raise SidaError(f"recipe {job.recipe.name}: teacher.train is missing")
    dataset = job.manifest(job.spec.dataset, DatasetResult).result
    data = ShuffledData(Shards(job.store, dataset), train.seed, job.processes.device, stride=train.batch)
    run = TeacherRun(fresh_network(job, train), train, data, job.processes)
    if saved := checkpoint.newest(job):
        run.restore(saved)
        if job.processes.first:
            progress.note(job.step, f"continuing from the checkpoint at {run.seen:,} images")
    shown = Progress(job.step, train.images, "images") if job.processes.first else None
    writer = Writer(job, keep=2)
    iteration, every = 0, job.recipe.execution.checkpoint_every
    try:
        while run.seen < train.images:
            before = run.seen
            loss = run.iterate()
            iteration += 1
            if shown and iteration % REPORT_EVERY == 0:
                shown.update(min(run.seen, train.images), loss=float(loss))
            if before // every != run.seen // every:
                if job.processes.first:
                    writer.save(run.seen, Checkpoint({"seen": run.seen}, run.tensors()))
                job.processes.meet()  # the checkpoint before may still be on its way
        writer.wait()
    finally:
        writer.close()
    if not job.processes.first:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{job.recipe.name}-teacher.safetensors"
        save_network(
            path, run.ema.state_dict(), job.recipe.teacher.network.model_dump(mode="json", exclude_defaults=True)
        )
        ref = job.put(path, path.name)
    return TeachOutcome(teacher=ref, images_seen=run.seen)
