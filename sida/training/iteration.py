"""One iteration of SiD, SiDA, SiD2A or Uni-Instruct: fake-score update, generator update, EMA (method paper, algorithm 1).

With ``method.steps`` k > 1 (arXiv 2505.12674) both phases see a uniform mixture of the images after steps 1 to k: image i is that
after step 1 + i mod k, so that every k consecutive images hold each step once, whichever process has them.

phi is the frozen teacher, psi the fake score (its encoder is the discriminator), theta the generator, theta_ema what is released.
Counts are in images; ``seen`` is the count before the iteration. Nothing here knows of files, steps or stores.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sida import devices
from sida.numerics.augment import augment, draw_augment
from sida.numerics.draws import DrawSource
from sida.numerics.ema import ema_beta, update_ema
from sida.numerics.losses import DIVERGENCES, fake_score_losses, generator_losses
from sida.numerics.networks.layers import key_dropout
from sida.numerics.networks.magnitude import force_normalization, magnitude_weights
from sida.numerics.networks.precondition import Denoiser
from sida.numerics.samplers import own_step
from sida.numerics.schedules import fake_score_sigma, generator_sigma, step_sigmas
from sida.recipe import Method
from sida.recipe.batches import divide_batch
from sida.training.division import local
from sida.training.gradients import Updates, leaves_of
from sida.training.health import HealthCounter
from sida.training.loss_groups import GroupSum
from sida.training.op_profile import IterationProfile
from sida.training.sharding import is_divided
from sida.training.state import Parts
from sida.worker.ranks import Processes


class TrainingData(Protocol):
    """Where batches come from. ``positions``: int64 [N] places in the endless reading order, on the host."""

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 [N, C, H, W] (in [-1, 1], or normalized latents), one-hot labels float32 [N, label_dim]."""


class Networks(NamedTuple):
    """The four networks of distillation, on one device."""

    phi: Denoiser
    psi: Denoiser
    theta: Denoiser
    theta_ema: Denoiser

    @classmethod
    def start(cls, teacher: Denoiser, generator: Denoiser | None = None) -> Networks:
        """psi and phi from the teacher; theta and theta_ema from it too, or from a finished SiD generator (SiD2A).

        As published theta has no uncertainty head (EDM2), whatever it starts from.
        """
        start = generator or teacher
        networks = cls(teacher, copy.deepcopy(teacher), copy.deepcopy(start), copy.deepcopy(start))
        for headless in (networks.theta, networks.theta_ema):
            headless.drop_logvar()
        for frozen in (networks.phi, networks.theta_ema):
            frozen.eval().requires_grad_(False)
        return networks


class Distillation:
    """The two optimizers and the state of one process's share of the work."""

    def __init__(
        self,
        networks: Networks,
        method: Method,
        draws: DrawSource,
        data: TrainingData,
        processes: Processes,
        micro_batch: int | None = None,
    ) -> None:
        """``micro_batch``: per process, as a recipe's execution has it (``sida.recipe.batches``), which raises ValueError."""
        self.division = divide_batch(method.batch, method.loss_group, processes.world, micro_batch)
        self.networks, self.method, self.draws, self.data, self.processes = networks, method, draws, data, processes
        for network in networks:
            network.compute_in(method.precision)  # on float32 master weights
        self.group = method.loss_group // self.division.span  # this process's part of a loss group, or all of it
        self.psi_groups = self.theta_groups = None
        if self.division.span > 1 and method.adversarial:
            group, rounds = processes.consecutive(self.division.span), self.division.rounds
            self.psi_groups = GroupSum(processes, group, 2 * rounds)  # over generated and over real images
            self.theta_groups = GroupSum(processes, group, rounds)
        eps = 1e-6 if method.half else 1e-8
        self.psi_updates = Updates(networks.psi, processes, (0.0, 0.999), eps)
        self.theta_updates = Updates(networks.theta, processes, (method.generator_beta1, 0.999), eps)
        self._averages = list(networks.theta_ema.parameters())
        self.non_finite = HealthCounter(processes)
        self._record: IterationProfile | None = None
        self._rehearsed = False
        # Of the last iteration: gradient norms, the discriminator's balance, skipped samples.
        self.health: dict[str, Tensor] = {}

    @property
    def dropped(self) -> Tensor:
        """Samples that this process has skipped, int64 []."""
        return self.non_finite.counts[0]

    def parts(self) -> Parts:
        """Networks and optimizers: what a checkpoint holds of them."""
        networks = {"psi": self.networks.psi, "theta": self.networks.theta, "theta_ema": self.networks.theta_ema}
        return {**networks, "adam_psi": self.psi_updates, "adam_theta": self.theta_updates}

    def run(self, seen: int, record: IterationProfile | None = None) -> dict[str, Tensor]:
        """One iteration; returns the losses, means over this process's images, as tensors (no synchronization).

        Before theta's first step only phase A counts, and phase B, whose gradients would go nowhere, is left out.
        ``record`` is told where the time goes; that waits for the device.
        """
        self._record = record
        dropped = self.dropped.clone()
        with devices.products(self.method.precision):
            losses = self.update_fake_score(seen)
            # Once in any case: what memory it needs shows at the start.
            if self._theta_steps(seen) or not self._rehearsed:
                losses |= self.update_generator(seen)
                self._rehearsed = True
        beta = ema_beta(seen, self.method.batch, self.method.ema_half_life, self.method.ema_ramp)
        with self._recorded(1):
            values = self.theta_updates.parameters.values()
            update_ema([local(p) for p in self._averages], [local(p) for p in values], beta)
        self.health["dropped"] = self.dropped - dropped
        return losses

    # Phase A: psi learns to denoise the generator's images, and to tell them from real ones.

    def update_fake_score(self, seen: int) -> dict[str, Tensor]:
        method, networks = self.method, self.networks
        psi, theta = networks.psi.train(), networks.theta.eval()
        self.psi_updates.train_weights(True)
        self.theta_updates.train_weights(False)
        in_two = method.adversarial and self.division.rounds > 1 and is_divided(psi)
        means, beliefs = dict[str, Tensor](), dict[str, Tensor]()
        for offsets, indices, steps in self._rounds(self.psi_updates, seen):
            x, c = self.data.batch(2 * seen + offsets)
            with torch.no_grad():
                y = self._generate(theta, "A/z", indices, steps, x.shape[1:], c)
            x_labels = y_labels = None
            if method.augment:
                y, y_labels = self._augmented("A/augment y", indices, y)
            if method.augment and method.adversarial:  # SiD looks at no real image
                x, x_labels = self._augmented("A/augment x", indices, x)
            sigma = fake_score_sigma(self.draws.normal("A/n1", indices, ()), method.P_mean, method.P_std)
            noise = self.draws.normal("A/eps", indices, y.shape[1:]) * sigma[:, None, None, None]
            if not method.adversarial:
                self._normalize(self.psi_updates)
            key_dropout(psi, self.draws, "A/fake" if method.adversarial else "A", indices)
            if method.adversarial:
                y_psi, l_fake = psi(y + noise, sigma, c, y_labels, want="both")
                key_dropout(psi, self.draws, "A/real", indices)  # two passes, two masks, as published
                l_real = psi(x + noise, sigma, c, x_labels, want="logits")
            else:
                y_psi, l_fake, l_real = psi(y + noise, sigma, c, y_labels), None, None
            outputs = l_real, y_psi, l_fake, psi.logvar(sigma)
            l_real, y_psi, l_fake, u = leaves = leaves_of(outputs) if in_two else outputs
            losses = fake_score_losses(y, y_psi, sigma, l_fake, l_real, u, self.group, self.psi_groups)
            total = method.fake_score_weight * losses.loss_psi.sum()
            self._average(means, "loss_psi", losses.loss_psi)
            if losses.loss_D is not None:
                total = total + method.discriminator_weight * losses.loss_D.sum()
                self._average(means, "loss_D", losses.loss_D)
            if l_fake is not None and l_real is not None:
                self._average(beliefs, "D_real", l_real.detach().sigmoid())  # how sure that real images are real
                self._average(beliefs, "D_fake", l_fake.detach().sigmoid())  # how sure that generated ones are
            scaled = total / (method.batch / method.loss_scale)
            if in_two:
                self.psi_updates.backward_in_two(scaled, outputs, leaves)
            else:
                scaled.backward()
            self.non_finite.note(seen, sigma, losses.keep, total)
        clip = 1.0 if method.adversarial and method.clip_fake_score else None
        self.health["gradient_psi"] = self._step(self.psi_updates, method.fake_score_rate, seen, clip)
        self.psi_updates.zero_grad()  # the other phase needs the memory
        self.health |= beliefs
        return means

    # Phase B: theta moves towards images on which the teacher and psi agree, and which psi takes for real.

    def update_generator(self, seen: int) -> dict[str, Tensor]:
        """Step theta; before its first step a rehearsal, of which nothing stays."""
        method, networks = self.method, self.networks
        phi, psi, theta = networks.phi, networks.psi.eval(), networks.theta.train()
        self.psi_updates.train_weights(False)
        self.theta_updates.train_weights(True)
        unweighted = method.divergence is not None and DIVERGENCES[method.divergence] is None  # the loss is SiD's
        judged = method.adversarial and not unweighted and seen > method.adversarial_from
        moves = self._theta_steps(seen)
        means: dict[str, Tensor] = {}
        for offsets, indices, steps in self._rounds(self.theta_updates if moves else None, seen):
            x, c = self.data.batch(2 * seen + method.batch + offsets)
            if method.forced_normalization or not method.adversarial:
                self._normalize(self.theta_updates)
            key_dropout(theta, self.draws, "B", indices)
            y = self._generate(theta, "B/z", indices, steps, x.shape[1:], c)
            sigma = generator_sigma(self.draws.uniform("B/u", indices, ()), method.tmax)
            noisy = y + self.draws.normal("B/eps", indices, y.shape[1:]) * sigma[:, None, None, None]
            y_phi = phi(noisy, sigma, c)
            if judged:
                y_psi, logits = psi(noisy, sigma, c, want="both")
            else:
                y_psi, logits = psi(noisy, sigma, c), None
            u = psi.logvar(sigma)
            losses = generator_losses(
                y, y_phi, y_psi, method.alpha, logits, u, self.group, self.theta_groups, method.divergence
            )
            total = method.generator_weight * losses.loss_sid.sum()
            self._average(means, "loss_sid", losses.loss_sid)
            if losses.loss_adv is not None:
                total = 0.5 * total + 0.5 * method.adversarial_weight * losses.loss_adv.sum()
                self._average(means, "loss_adv", losses.loss_adv)
            (total / (method.batch / method.loss_scale)).backward()
            if moves:
                self.non_finite.note(seen, sigma, losses.keep, total)
        if moves:
            self.health["gradient_theta"] = self._step(self.theta_updates, method.generator_rate, seen)
        self.theta_updates.zero_grad()
        return means if moves else {}

    def _theta_steps(self, seen: int) -> bool:
        return not self.method.adversarial or seen > self.method.generator_from

    def _rounds(self, updates: Updates | None, seen: int) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
        """Offsets into the global batch (on the host), image indices (on the device), each image's step, by micro-batch.

        The last one's backward sends the gradients; it is the one that is recorded. Which images of the batch a process takes, and
        in which round, changes no number: draws go by the image, and what is summed over a loss group is in one round.
        """
        rounds = self.division.rounds
        for number in range(rounds):
            ending = number == rounds - 1
            if updates is not None:
                updates.begin_round(ending)
            first = self.division.first(self.processes.rank, number)
            last = first + self.division.micro_batch
            with self._recorded(rounds) if ending else nullcontext():
                steps = [1 + index % self.method.steps for index in range(seen + first, seen + last)]
                indices = torch.arange(seen + first, seen + last, device=self.processes.device)
                yield torch.arange(first, last), indices, steps

    def _average(self, means: dict[str, Tensor], name: str, values: Tensor) -> None:
        """Add a round's share to a mean over all rounds, which are of one size."""
        mean = values.detach().mean() / self.division.rounds
        means[name] = means[name] + mean if name in means else mean

    def _recorded(self, times: int) -> AbstractContextManager[None]:
        return self._record.recorded(times) if self._record else nullcontext()

    def _generate(
        self, theta: Denoiser, purpose: str, indices: Tensor, steps: list[int], shape: torch.Size, c: Tensor
    ) -> Tensor:
        """Each image after its own step: with one, G(z, c) = D_theta(sigma_init z; sigma_init, c)."""

        def noise(step: int, places: Tensor | slice) -> Tensor:
            return self.draws.normal(purpose if step == 1 else f"{purpose} {step}", indices[places], shape)

        return own_step(theta, noise, c, step_sigmas(self.method.sigma_init, self.method.steps), steps)

    def _augmented(self, purpose: str, indices: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        with devices.products("float32"):  # where a pixel comes from takes more digits than TF32 has
            return augment(images, draw_augment(self.draws, purpose, indices), self.method.augment)

    def _step(self, updates: Updates, rate: float, seen: int, clip: float | None = None) -> Tensor:
        """One step of Adam; returns the norm of the gradient that it took, over all parameters."""
        with self._recorded(1):
            return updates.step(rate * self._decay(seen), clip, self.method.loss_scale)

    def _normalize(self, updates: Updates) -> None:
        """EDM2's forced weight normalization where the published runs had it (no effect on the other networks)."""
        for name, weight in magnitude_weights(updates.network).items():
            force_normalization([local(weight)])
            if (own := updates.parameters[name]) is not weight:  # which is gathered
                force_normalization([local(own)])

    def _decay(self, seen: int) -> float:
        """1, then linearly to 0 from ``decay_from`` to the end; in the warm-up from ``warm_up_decay_from`` to its end."""
        start, end = self.method.decay_from, self.method.images
        if self.method.warm_up_decay_from is not None and not self._theta_steps(seen):
            start, end = self.method.warm_up_decay_from, self.method.generator_from
        if start is None or seen <= start:
            return 1.0
        return max(0.0, (end - seen) / (end - start))
