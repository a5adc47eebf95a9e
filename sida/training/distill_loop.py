"""Distillation, the worker's side: what is trained, scored, checked and published.

``sida.training.distill_step`` holds the step.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from sida import progress
from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import SidaError, UserError
from sida.launch.spec import DistillOutcome, DistillSpec
from sida.layout import SYSTEM_METRICS, samples_name
from sida.manifests import DatasetResult, Selected, TeacherResult
from sida.numerics.draws import Draws
from sida.numerics.networks.precondition import Denoiser
from sida.progress import Progress
from sida.scoring import noise
from sida.settings import settings
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object
from sida.teachers.files import generator_header, network_on_meta, save_network
from sida.training.checkpoint import identity_of
from sida.training.execution import apply_execution
from sida.training.health import NonFinite, write_dump
from sida.training.history import History
from sida.training.iteration import Distillation, Networks
from sida.training.loading import load_into
from sida.training.loop import Stop, TrainingRun, crossed, stop_on_sigterm
from sida.training.op_profile import PROFILED, IterationProfile
from sida.training.selection import Selection, Stopped
from sida.training.sharding import divide, gathered, whole
from sida.training.state import Parts, state_of
from sida.worker.job import Job
from sida.worker.system_metrics import SystemMetrics


def distill(job: Job[DistillSpec]) -> DistillOutcome | None:
    """Run the job to its end; the first process returns the generator's object and how it was chosen."""
    with stop_on_sigterm() as stop:
        run = DistillRun(job)
        with closing(run.writer):
            run.train(stop)
            return run.outcome()


class DistillRun(TrainingRun):
    """Two networks trained against each other, and the best generator that comes of it."""

    job: Job[DistillSpec]

    def __init__(self, job: Job[DistillSpec]) -> None:
        method = job.recipe.method
        super().__init__(job, method.images, method.batch, identity_of(job))
        with self.stopwatch.measure("start"):
            self.dataset = job.manifest(job.spec.dataset, DatasetResult).result
            self.distillation = self._distillation()
            self.selection = Selection(job, self.distillation.networks.theta_ema, self.dataset)
            self.history = History(method.images, method.batch, job.processes)
            self.profile: dict[str, float] = {}  # milliseconds of one iteration by kind of operator
            self.losses: dict[str, Tensor] = {}  # of the iteration before, if it was one of this process
            self.resume()
            self.noise = self._noise()
            sampled = settings().system_metrics and job.processes.first
            self.system = SystemMetrics(job) if sampled else None

    def _distillation(self) -> Distillation:
        job, method, execution = self.job, self.job.recipe.method, self.job.recipe.execution
        teacher, start = (job.manifest(ref, TeacherResult).result for ref in (job.spec.teacher, job.spec.start))
        generator = None if start.weights == teacher.weights else self._empty(start)  # SiD2A's
        networks = Networks.start(self._empty(teacher), generator)
        apply_execution(networks, execution)
        divide(networks, execution, job.processes)
        for network, of in zip(networks, (teacher, teacher, start, start), strict=True):
            load_into(network, fetch_object(job.store, of.weights), of.network, job.processes.device)
        data = ShuffledData(Shards(job.store, self.dataset), method.seed, job.processes.device, stride=method.batch)
        try:
            return Distillation(networks, method, Draws(method.seed), data, job.processes, execution.micro_batch)
        except ValueError as error:
            raise UserError(
                f"recipe {job.recipe.name}: {error}: change execution.processes (or SIDA_WORKERS, or processes in the profile) "
                f"or micro_batch"
            ) from error

    def _empty(self, result: TeacherResult) -> Denoiser:
        return network_on_meta(result.network, f"recipe {self.job.recipe.name}", self.job.recipe.method.dropout)

    def parts(self) -> Parts:
        """Networks and optimizers, counts, curve, the best generator, seconds."""
        return {
            **self.distillation.parts(),
            "non_finite": self.distillation.non_finite,
            "history": self.history,
            "selection": self.selection,
            "stopwatch": self.stopwatch,
        }

    @property
    def finished(self) -> bool:
        """Whether all images were seen, or the scores are such that the recipe wants no more."""
        evaluation = self.job.recipe.evaluation
        patience = evaluation.stop_after
        worse = patience is not None and self.selection.since_best >= patience
        return super().finished or worse or (evaluation.stop_at_noise and self.noise is not None)

    def iterate(self) -> dict[str, Tensor]:
        """Do one iteration and add it to the curve; see whether a selection is due."""
        whole = self.iteration >= PROFILED and self.seen > self.job.recipe.method.warm_up
        measured = whole and not self.profile and self.job.processes.first
        record = IterationProfile(self.job.processes.device) if measured else None
        self.losses = losses = self.distillation.run(self.seen, record)
        if record:
            self.profile = record.milliseconds
        after = self.seen + self.batch
        last = after >= self.images
        self.history.add(after, losses | self.distillation.health, last)
        if self.system is not None and (last or crossed(self.seen, after, self.history.every)):
            self.writer.publish(SYSTEM_METRICS, self.system.sampled(after))
        self.selection.due |= last or crossed(self.seen, after, self.job.recipe.evaluation.selection_every)
        return losses

    # Selections.

    def evaluate(self, stop: Stop) -> None:
        """Score the EMA generator if that is due; the best one is kept, by a checkpoint too."""
        if not self.selection.due:
            return
        with self.stopwatch.measure("selection"):
            try:
                with gathered(self.distillation.networks.theta_ema):
                    score = self.selection.score(stop)
                    if self.job.processes.first:
                        self.writer.publish(samples_name(self.seen), self.selection.picture(self.seen, score))
            except Stopped:
                self.checkpoint(self.losses)
                raise self.stopped(stop) from None
            self.selection.keep(self.seen, score)
            if self.job.recipe.execution.keep_selections:
                tensors = whole(self.distillation.networks.theta_ema.state_dict(), self.job.processes)
                if self.job.processes.first:
                    stored = self._store(tensors, f"generator-{self.seen}.safetensors")
                    self.selection.keep_file(stored, self.seen, score)
            self.history.note(self.seen, "score", score)
            before, self.noise = self.noise, self._noise()
            if self.noise is not None and before is None and self.job.processes.first:
                progress.note(self.job.step, noise.in_words(self.noise, self.job.recipe, self.history.points))
            self.checkpoint_due |= self.selection.best_seen == self.seen
            self.job.processes.meet()

    def _noise(self) -> noise.Noise | None:
        """Return what the curve so far says."""
        return noise.noise_in(self.history.points, self.selection.blank, self.job.recipe.method.trained_from)

    # Losses that are not finite: no checkpoint for now, and beyond a limit the end, with a dump.

    def report(self, losses: dict[str, Tensor], display: Progress | None, **numbers: float) -> None:
        """Show losses and the best score. Raises SidaError when more of the losses were not finite than the recipe allows."""
        counts, limit = self.distillation.non_finite.read(), self.job.recipe.execution.non_finite_limit
        if counts.skipped + counts.non_finite > limit:
            raise self._failure(f"more than execution.non_finite_limit {limit}", losses, counts)
        if self.noise is not None:
            numbers["noise_since"] = self.noise.since
        super().report(losses, display, best=self.selection.best_score, **numbers)

    def checkpoint(self, losses: dict[str, Tensor]) -> None:
        """Publish a checkpoint; while a loss is not finite at a later iteration, so that it replaces no good state."""
        bad = any([not torch.isfinite(value) for value in losses.values()])
        if not self.job.processes.agree(bad):
            self.save()
        elif self.finished:
            counts = self.distillation.non_finite.read()
            raise self._failure("a loss of the last iteration is not finite", losses, counts)
        else:
            self.checkpoint_due = True

    def _failure(self, why: str, losses: dict[str, Tensor], counts: NonFinite) -> SidaError:
        """Dump networks, optimizers and the best generator beside the checkpoints, which stay; returns the error to raise."""
        iteration = self.seen // self.batch
        self.writer.wait()
        self.job.processes.meet()
        facts = {"why": why, "seen": self.seen, "iteration": iteration, "trouble": asdict(counts)}
        facts["losses"] = {key: str(float(value)) for key, value in losses.items()}
        _, tensors = state_of({**self.distillation.parts(), "selection": self.selection})
        address = write_dump(self.job, self.seen, facts, tensors)
        return SidaError(
            f"{why}: {counts}; stopped at iteration {iteration} ({self.seen:,} images). The state is in {address}, "
            f"the last good checkpoint is kept: lower the learning rates or alpha in the recipe"
        )

    def outcome(self) -> DistillOutcome | None:
        """Store the best generator and the curve (the first process)."""
        counts = self.distillation.non_finite.read()
        selection = self.selection
        best = whole(selection.best, self.job.processes)
        if not self.job.processes.first:
            return None
        generator = self._store(best, "generator.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curve.json"
            path.write_text(json.dumps(self.history.points))
            curve = self.job.put(path, path.name)
        return DistillOutcome(
            generator=generator,
            curve=curve,
            images_seen=selection.best_seen,
            score=selection.best_score,
            dropped=counts.skipped,
            noise="" if self.noise is None else noise.in_words(self.noise, self.job.recipe, self.history.points),
            seconds={name: round(seconds, 2) for name, seconds in self.stopwatch.seconds.items()},
            profile=self.profile,
            selections=tuple(Selected.model_validate(kept) for kept in selection.kept),
        )

    def _store(self, tensors: Mapping[str, Tensor], name: str) -> ObjectRef:
        """Store a generator's weights as a file that says what it holds."""
        recipe = self.job.recipe
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            network = recipe.teacher.network.of_generator().model_dump(mode="json")
            save_network(path, tensors, network, **generator_header(recipe.method.sigma_init, recipe.method.steps))
            return self.job.put(path, name)
