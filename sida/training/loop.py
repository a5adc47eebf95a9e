"""The distillation loop of one process: resume, iterate, select, checkpoint, publish."""

from __future__ import annotations

import json
import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sida import progress
from sida.data.latents import decoder_of
from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import SidaError, UserError
from sida.launch.spec import DistillOutcome, DistillSpec
from sida.layout import samples_name
from sida.manifests import DatasetResult, ReferenceResult, TeacherResult
from sida.numerics.draws import Draws
from sida.numerics.frechet import frechet_distance
from sida.numerics.networks.magnitude import release_folded
from sida.numerics.networks.precondition import Denoiser
from sida.patience import ticking
from sida.progress import Progress
from sida.scoring.detector import load_detector
from sida.scoring.measure import decoded, generator_images
from sida.scoring.protocol import range_moments
from sida.scoring.reference import load_statistics
from sida.stores.objects import fetch_object
from sida.teachers.files import load_network, save_network
from sida.training import checkpoint
from sida.training.checkpoint import Checkpoint
from sida.training.execution import apply_execution
from sida.training.history import History
from sida.training.identity import identity, refuse_other
from sida.training.iteration import Distillation, Networks
from sida.training.profile import PROFILED, IterationProfile
from sida.training.selection import largest_batch, sample_grid
from sida.training.trouble import refuse_trouble, save_unless_non_finite
from sida.training.watch import Trouble
from sida.training.writer import Writer
from sida.worker.job import Job

REPORT_EVERY = 8  # iterations between readings of the losses, which wait for the device
SELECTION_SEED = 0  # selection uses seeds 0 .. selection_images - 1; reported ranges start far above


class Stopped(Exception):
    """The job was asked to stop while it was scoring; that score is due when it continues."""


class Run:
    """State of one distillation job in one process."""

    def __init__(self, job: Job[DistillSpec]) -> None:
        self.seconds = {"start": -time.monotonic(), "iterations": 0.0, "selection": 0.0, "checkpoints": 0.0}
        self.job, self.method, self.evaluation = job, job.recipe.method, job.recipe.evaluation
        teacher = job.manifest(job.spec.teacher, TeacherResult).result
        self.dataset = job.manifest(job.spec.dataset, DatasetResult).result
        self.reference = job.manifest(job.spec.reference, ReferenceResult).result
        device = job.processes.device
        weights = load_network(fetch_object(job.store, teacher.weights), teacher.network, self.method.dropout)
        self.networks = Networks.start(weights.to(device), self._start(teacher, device))
        apply_execution(self.networks, job.recipe.execution)
        shards = Shards(job.store, self.dataset)
        try:
            self.distillation = Distillation(
                self.networks,
                self.method,
                Draws(self.method.seed),
                ShuffledData(shards, self.method.seed, device, stride=self.method.batch),
                job.processes,
                job.recipe.execution.micro_batch,
            )
        except ValueError as error:
            raise UserError(f"recipe {job.recipe.name}: {error}: change execution.processes or micro_batch") from error
        self.detector = load_detector(fetch_object(job.store, self.reference.detector)).to(device)
        self.real = load_statistics(job.store, self.reference)
        latents = job.recipe.dataset.latents
        self.decode = None if latents is None else decoder_of(latents, device)
        self.seen = 0
        self.history = History(self.method.images, self.method.batch, job.processes)
        self.best_score, self.best_seen = math.inf, 0
        self.best: dict[str, Tensor] = {}
        self.since_best = 0  # selections since the best one
        self.selection_due = self.checkpoint_due = False
        self.sampling_batch: int | None = None
        self.trouble_before = Trouble()
        self.profile: dict[str, float] = {}  # milliseconds of one iteration by kind of operator, once it was measured
        self.writer = Writer(job, job.recipe.execution.checkpoints_kept)
        self._resume()
        job.processes.meet()  # each has fetched and read what it needs
        self.seconds["start"] += time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all images were seen, or the score has not improved for as long as the recipe allows."""
        patience = self.evaluation.stop_after
        return self.seen >= self.method.images or (patience is not None and self.since_best >= patience)

    def trouble(self) -> Trouble:
        """What went wrong so far, on all processes, which call it alike; waits for the device."""
        return self.distillation.watch.read(self.job.processes, self.trouble_before)

    def _start(self, teacher: TeacherResult, device: torch.device) -> Denoiser | None:
        """The finished generator that SiD2A starts theta from; None: the teacher."""
        start = self.job.manifest(self.job.spec.start, TeacherResult).result
        if start.weights == teacher.weights:
            return None
        path = fetch_object(self.job.store, start.weights)
        return load_network(path, start.network, self.method.dropout).to(device)

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
        refuse_other(saved.state["recipe"], self.job, saved.state["seen"])
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
        self.best_score, self.best_seen = saved.state["best_score"], saved.state["best_seen"]
        self.since_best, self.selection_due = saved.state["since_best"], saved.state["selection_due"]
        self.sampling_batch = saved.state["sampling_batch"]
        trouble = saved.state["trouble"]
        self.trouble_before = Trouble(**trouble | {"sigma": tuple(trouble["sigma"]) if trouble["sigma"] else None})
        self.seconds |= {name: saved.state["seconds"][name] for name in ("iterations", "selection", "checkpoints")}
        if self.job.processes.first:
            progress.note(self.job.step, f"continuing from the checkpoint at {self.seen:,} images")

    def save(self) -> None:
        """Publish a checkpoint (the first process; the others, which call it too, have the same state)."""
        trouble, history = self.trouble(), self.history.state()
        self.checkpoint_due = False
        if self.job.processes.first:
            self._write(trouble, history)
        self.job.processes.meet()  # the checkpoint before may still be on its way

    def _write(self, trouble: Trouble, history: dict[str, Any]) -> None:
        state = {
            "recipe": identity(self.job),
            "seen": self.seen,
            "history": history,
            "best_score": self.best_score,
            "best_seen": self.best_seen,
            "since_best": self.since_best,
            "selection_due": self.selection_due,
            "sampling_batch": self.sampling_batch,
            "trouble": asdict(trouble),
            "seconds": self.seconds,
        }
        waited = self.writer.stalled
        self.writer.save(self.seen, Checkpoint(state, self.tensors()))
        self.seconds["checkpoints"] += self.writer.stalled - waited

    def select(self, stop: Callable[[], bool]) -> None:
        """Score the EMA generator on the selection seeds; keep it if it is the best so far. Raises Stopped, on all processes."""
        started = time.monotonic()
        processes, classes = self.job.processes, len(self.dataset.histogram)
        make = generator_images(self.networks.theta_ema, self.method.sigma_init)
        if self.decode is not None:
            make = decoded(make, self.decode)
        if self.sampling_batch is None:
            limit = self.job.recipe.execution.batch_limit
            self.sampling_batch = largest_batch(make, self.detector, classes, limit, processes)
        votes = -(-self.evaluation.selection_images // self.sampling_batch) // processes.world  # batches that all have

        def vote(images: int) -> None:
            nonlocal votes
            votes -= 1
            if votes >= 0 and processes.agree(stop()):
                raise Stopped

        moments = range_moments(
            make,
            self.detector,
            histogram=self.dataset.histogram,
            first_seed=SELECTION_SEED,
            count=self.evaluation.selection_images,
            features=self.reference.features,
            batch=self.sampling_batch,
            processes=processes,
            report=vote,
        )
        mean, covariance = (part.cpu() for part in moments.mean_cov())  # the reference is on the host
        score = frechet_distance(mean, covariance, *self.real)
        self.since_best += 1
        if score < self.best_score:
            self.best_score, self.best_seen, self.since_best = score, self.seen, 0
            self.best = {key: t.detach().clone() for key, t in self.networks.theta_ema.state_dict().items()}
            self.checkpoint_due = True  # the best is kept
        self.history.note(self.seen, "score", score)
        self.selection_due = False
        if processes.first:
            title = f"{self.seen:,} images, {self.reference.metric} {score:.4g}"
            self.writer.publish(samples_name(self.seen), sample_grid(make, classes, title, processes.device))
        release_folded(self.networks.theta_ema)
        processes.meet()
        self.seconds["selection"] += time.monotonic() - started


def distill(job: Job[DistillSpec]) -> DistillOutcome | None:
    """Run the job to its end; the first process returns the generator's object and how it was chosen."""
    with stop_on_sigterm() as stop, ticking(lambda: _wait_no_more(stop)):
        run = Run(job)
        try:
            _iterate(run, stop)
            trouble = run.trouble()
            return _publish(run, trouble) if job.processes.first else None
        finally:
            run.writer.close()


def _iterate(run: Run, stop: Callable[[], bool]) -> None:
    """From where the run stands to its end. Raises SidaError when it is asked to stop, after a checkpoint."""
    job, method, processes = run.job, run.method, run.job.processes
    shown = Progress(job.step, method.images, "images") if processes.first else None
    if shown:
        shown.update(run.seen)
    iteration = 0
    if run.selection_due:
        _select(run, stop)
    while not run.finished:
        before, started = run.seen, time.monotonic()
        record = iteration == PROFILED and processes.first
        losses = _recorded(run, before) if record else run.distillation.run(before)
        run.seen = before + method.batch
        run.history.add(run.seen, losses | run.distillation.health, last=run.seen >= method.images)
        run.seconds["iterations"] += time.monotonic() - started
        iteration += 1
        if iteration % REPORT_EVERY == 0:
            refuse_trouble(run, losses)
            if shown:
                numbers = {name: float(value) for name, value in losses.items()}
                shown.update(min(run.seen, method.images), **numbers, best=run.best_score)
        if run.seen >= method.images or _crossed(before, run.seen, run.evaluation.selection_every):
            run.selection_due = True
            _select(run, stop)
        run.checkpoint_due |= _crossed(before, run.seen, job.recipe.execution.checkpoint_every)
        stopping = processes.agree(stop())
        if run.finished or stopping or run.checkpoint_due:
            save_unless_non_finite(run, losses)
        if stopping and not run.finished:
            raise _stopped(run, stop)
    run.writer.wait(stop)
    processes.meet()


def _recorded(run: Run, seen: int) -> dict[str, Tensor]:
    record = IterationProfile(run.job.processes.device, run.distillation.rounds)
    losses = run.distillation.run(seen, record)
    run.profile = record.milliseconds
    return losses


def _select(run: Run, stop: Callable[[], bool]) -> None:
    try:
        run.select(stop)
    except Stopped:
        run.save()
        raise _stopped(run, stop) from None


def _wait_no_more(stop: Callable[[], bool]) -> None:
    if stop():
        raise SidaError("stopped while the store was away: run again to continue from the last checkpoint")


def _stopped(run: Run, stop: Callable[[], bool]) -> SidaError:
    """The checkpoint is in the store when this returns."""
    run.writer.wait(stop)
    return SidaError(f"stopped at {run.seen} images, after a checkpoint: run again to continue")


def _publish(run: Run, trouble: Trouble) -> DistillOutcome:
    """Store the best generator and the curve."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.safetensors"
        network = run.job.recipe.teacher.network.of_generator().model_dump(mode="json")
        save_network(path, run.best, network, sigma_init=run.method.sigma_init)
        generator = run.job.put(path, path.name)
        path = Path(folder) / "curve.json"
        path.write_text(json.dumps(run.history.points))
        curve = run.job.put(path, path.name)
    return DistillOutcome(
        generator=generator,
        curve=curve,
        images_seen=run.best_seen,
        score=run.best_score,
        dropped=trouble.skipped,
        seconds={name: round(seconds, 2) for name, seconds in run.seconds.items()},
        profile=run.profile,
    )


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM has come: the iteration is finished and a checkpoint written first."""
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
