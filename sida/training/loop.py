"""The distillation loop of one process: resume, iterate, select, checkpoint, publish."""

from __future__ import annotations

import json
import math
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sida import progress
from sida.data.order import ShuffledOrder
from sida.data.shards import Shards
from sida.errors import SidaError, UserError
from sida.manifests import DatasetResult, ReferenceResult, TeacherResult
from sida.numerics.draws import Draws
from sida.numerics.frechet import frechet_distance
from sida.progress import Progress
from sida.scoring.detector import load_detector
from sida.scoring.measure import generator_images
from sida.scoring.protocol import range_moments
from sida.scoring.reference import load_moments
from sida.stores.base import fetch_object
from sida.teachers.files import load_network, save_network
from sida.training import checkpoint
from sida.training.checkpoint import Checkpoint
from sida.training.history import History
from sida.training.iteration import Distillation, Networks
from sida.training.job import Job

REPORT_EVERY = 8  # iterations between readings of the losses, which wait for the device
SELECTION_SEED = 0  # selection uses seeds 0 .. selection_images - 1; reported ranges start far above


class ShuffledData:
    """The training set in endless shuffled order."""

    def __init__(self, shards: Shards, seed: int, device: torch.device) -> None:
        self.shards, self.order, self.device = shards, ShuffledOrder(len(shards), seed), device

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.shards.batch(self.order(positions.cpu()))
        return images.to(self.device), labels.to(self.device)


class Run:
    """State of one distillation job in one process."""

    def __init__(self, job: Job) -> None:
        self.seconds = {"start": -time.monotonic(), "iterations": 0.0, "selection": 0.0, "checkpoints": 0.0}
        self.job, self.method, self.evaluation = job, job.recipe.method, job.recipe.evaluation
        teacher: TeacherResult = job.manifest("teacher").result  # type: ignore[assignment]
        self.dataset: DatasetResult = job.manifest("dataset").result  # type: ignore[assignment]
        self.reference: ReferenceResult = job.manifest("reference").result  # type: ignore[assignment]
        self.network = teacher.network
        device = job.processes.device
        weights = load_network(fetch_object(job.store, teacher.weights), teacher.network, self.method.dropout)
        self.networks = Networks.start(weights.to(device))
        shards = Shards(job.store, self.dataset)
        try:
            self.distillation = Distillation(
                self.networks,
                self.method,
                Draws(self.method.seed),
                ShuffledData(shards, self.method.seed, device),
                job.processes,
                job.recipe.execution.micro_batch,
            )
        except ValueError as error:
            raise UserError(f"recipe {job.recipe.name}: {error}: change execution.processes or micro_batch") from error
        self.detector: nn.Module = load_detector(fetch_object(job.store, self.reference.detector)).to(device)
        self.real = load_moments(job.store, self.reference).mean_cov()
        self.seen = 0
        self.history = History(self.method.images, self.method.batch, job.processes)
        self.best_score, self.best_seen = math.inf, 0
        self.best: dict[str, Tensor] = {}
        self._resume()
        self.seconds["start"] += time.monotonic()

    # State, by name: what a checkpoint holds.

    def _modules(self) -> dict[str, nn.Module]:
        return {"psi": self.networks.psi, "theta": self.networks.theta, "theta_ema": self.networks.theta_ema}

    def _optimisers(self) -> Iterator[tuple[str, nn.Module, torch.optim.Optimizer]]:
        yield "psi", self.networks.psi, self.distillation.psi_optimiser
        yield "theta", self.networks.theta, self.distillation.theta_optimiser

    def tensors(self) -> dict[str, Tensor]:
        """Networks, Adam moments and the best generator so far, by name."""
        found = {
            f"{name}/{key}": tensor
            for name, module in self._modules().items()
            for key, tensor in module.state_dict().items()
        }
        for name, module, optimiser in self._optimisers():
            for key, parameter in module.named_parameters():
                for field, value in optimiser.state.get(parameter, {}).items():
                    found[f"adam/{name}/{field}/{key}"] = value
        return found | {f"best/{key}": tensor for key, tensor in self.best.items()}

    def _resume(self) -> None:
        saved = checkpoint.newest(self.job)
        if saved is None:
            return
        if saved.state["recipe"] != self._recipe_digest():
            raise UserError("this checkpoint belongs to another recipe: make a new attempt with --force distill")
        tensors = saved.tensors
        for name, module in self._modules().items():
            module.load_state_dict(_under(tensors, f"{name}/"))
        for name, module, optimiser in self._optimisers():
            for key, parameter in module.named_parameters():
                fields = {f: tensors.get(f"adam/{name}/{f}/{key}") for f in ("step", "exp_avg", "exp_avg_sq")}
                if fields["step"] is not None:
                    device = parameter.device
                    optimiser.state[parameter] = {f: t.to(device) for f, t in fields.items() if t is not None}
        self.best = _under(tensors, "best/")
        self.seen = saved.state["seen"]
        self.history.restore(saved.state["history"], self.job.processes.device)
        self.seconds |= {name: saved.state["seconds"][name] for name in ("iterations", "selection", "checkpoints")}
        self.best_score, self.best_seen = saved.state["best_score"], saved.state["best_seen"]
        self.distillation.dropped.fill_(saved.state["dropped"])
        if self.job.processes.first:
            progress.note(self.job.step, f"continuing from the checkpoint at {self.seen:,} images")

    def _recipe_digest(self) -> str:
        from sida.manifests import digest_of

        return digest_of(self.method.model_dump(mode="json"))

    def save(self) -> None:
        """Publish a checkpoint (rank 0; the others have the same state)."""
        started = time.monotonic()
        history = self.history.state()
        if not self.job.processes.first:
            return
        state = {
            "recipe": self._recipe_digest(),
            "seen": self.seen,
            "history": history,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "best_seen": self.best_seen,
            "dropped": int(self.distillation.dropped),
        }
        keep = self.job.recipe.execution.checkpoints_kept
        checkpoint.save(self.job, self.seen, Checkpoint(state, self.tensors()), keep)
        self.seconds["checkpoints"] += time.monotonic() - started

    def select(self) -> float:
        """Score the EMA generator on the selection seeds; keep it if it is the best so far."""
        started = time.monotonic()
        moments = range_moments(
            generator_images(self.networks.theta_ema, self.method.sigma_init),
            self.detector,
            histogram=self.dataset.histogram,
            first_seed=SELECTION_SEED,
            count=self.evaluation.selection_images,
            features=self.reference.features,
            batch=self.job.recipe.execution.sampling_batch,
            processes=self.job.processes,
        )
        score = frechet_distance(*moments.mean_cov(), *self.real)
        if score < self.best_score:
            self.best_score, self.best_seen = score, self.seen
            self.best = {key: t.detach().clone() for key, t in self.networks.theta_ema.state_dict().items()}
        self.history.note(self.seen, "score", score)
        self.seconds["selection"] += time.monotonic() - started
        return score


def distil(job: Job) -> dict[str, Any]:
    """Run the job to its end and return the generator's object and how it was chosen."""
    run = Run(job)
    method, processes = run.method, job.processes
    stop = _stop_on_sigterm()
    shown = Progress(job.step, method.images, "images") if processes.first else None
    if shown:
        shown.update(run.seen)
    iteration = 0
    while run.seen < method.images:
        before, started = run.seen, time.monotonic()
        losses = run.distillation.run(before)
        run.seen = before + method.batch
        last = run.seen >= method.images
        run.history.add(run.seen, losses | run.distillation.health, last)
        run.seconds["iterations"] += time.monotonic() - started
        iteration += 1
        if iteration % REPORT_EVERY == 0 and shown:
            numbers = {name: float(value) for name, value in losses.items()}
            shown.update(min(run.seen, method.images), **numbers, best=run.best_score)
        if last or _crossed(before, run.seen, run.evaluation.selection_every):
            run.select()
        stopping = processes.agree(stop()) if iteration % REPORT_EVERY == 0 else False
        if last or stopping or _crossed(before, run.seen, job.recipe.execution.checkpoint_every):
            _refuse_non_finite(run, losses)
            run.save()
        if stopping and not last:
            raise SidaError(f"stopped at {run.seen} images, after a checkpoint: run again to continue")
    return _publish(run) if processes.first else {}


def _publish(run: Run) -> dict[str, Any]:
    """Store the best generator and the curve."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.safetensors"
        save_network(path, run.best, run.network, sigma_init=run.method.sigma_init)
        generator = run.job.put(path, path.name)
        path = Path(folder) / "curve.json"
        path.write_text(json.dumps(run.history.points))
        curve = run.job.put(path, path.name)
    return {
        "generator": [generator.name, generator.size, generator.sha256],
        "curve": [curve.name, curve.size, curve.sha256],
        "images_seen": run.best_seen,
        "score": run.best_score,
        "dropped": int(sum(point.get("dropped", 0) for point in run.history.points)),
        "seconds": {name: round(seconds, 1) for name, seconds in run.seconds.items()},
    }


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _refuse_non_finite(run: Run, losses: dict[str, Tensor]) -> None:
    """A non-finite loss is news: stop before it is saved over a good state."""
    bad = [name for name, value in losses.items() if not torch.isfinite(value)]
    if bad:
        raise SidaError(
            f"{', '.join(bad)} is not finite at {run.seen} images ({int(run.distillation.dropped)} samples dropped so far): "
            f"lower the learning rates or alpha in the recipe; the last checkpoint is kept"
        )


def _stop_on_sigterm() -> Any:
    """A function that says whether SIGTERM has come: the iteration is finished and a checkpoint written first."""
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, note)
    return lambda: asked
