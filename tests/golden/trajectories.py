"""traj_*.safetensors and .json: whole iterations through ``sida.training.iteration`` with recorded draws and data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sida.numerics.ema import ema_beta
from sida.numerics.latents import draw_latent
from sida.numerics.networks.precondition import Denoiser
from sida.recipe import Method
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes
from tests.golden.build import build
from tests.golden.compare import Case, Checks, Folder, Golden

PATTERNS = ["traj_*.json", "traj_*.safetensors"]
NORM, WHOLE, WHOLE_EDM2 = 1e-5, 1e-6, 1e-5
# Adam with beta1 = 0 makes whole steps of gradients that are rounding alone: kernels of another CPU may turn a few of them round.
MOVED, TURNED = (
    1e-3,
    1_000,
)  # norm of the difference over that of the movement, and one weight in so many that moved otherwise
ROUNDING = 2.0**-24  # of a weight
LOSS = 1e-3  # sums of differences of network outputs, which cancel
ADAM = 1e-4


def cases(folder: Folder) -> Iterator[Case]:
    for name in folder.names("traj_*.safetensors"):
        tag = name.removesuffix(".safetensors")
        yield Case(f"trajectories/{tag}", lambda checks, t=tag: _trajectory(checks, folder, t))


class Recorded:
    """Draws and data of a recorded run, by the image index or reading position that our iteration asks for."""

    def __init__(self, golden: Golden, meta: dict[str, Any]) -> None:
        self.golden = golden
        self.start, self.batch_size, self.micro_batch = meta["start_images_seen"], meta["batch"], meta["batch_gpu"]

    def _prefix(self, phase: str, image: int) -> str:
        iteration, offset = divmod(image - self.start, self.batch_size)
        return f"it{iteration}/{phase}/r{offset // self.micro_batch}"

    def normal(self, purpose: str, indices: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        phase, name = purpose.split("/")
        return self.golden[f"{self._prefix(phase, int(indices[0]))}/{name}"].reshape(-1, *shape).to(dtype)

    uniform = normal

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Position 2 seen + offset is phase A's reading, 2 seen + batch + offset phase B's."""
        iteration, offset = divmod(int(positions[0]) - 2 * self.start, 2 * self.batch_size)
        second, offset = divmod(offset, self.batch_size)
        prefix = self._prefix("B" if second else "A", self.start + iteration * self.batch_size + offset)
        labels, latents = self.golden[f"{prefix}/labels"], self.golden.get(f"{prefix}/raw_latents")
        if latents is not None:
            return draw_latent(latents, self.golden[f"{prefix}/latent_eps"]), labels
        x = self.golden.get(f"{prefix}/x_real")  # phase B, and SiD, need the labels only
        return torch.zeros_like(self.golden[f"{prefix}/z"]) if x is None else x, labels


def _networks(golden: Golden, meta: dict[str, Any]) -> Networks:
    """Starts: phi for all, except what the file gives separately; SiDA's EDM2 generators have no logvar head."""
    state = golden.under("phi/")
    phi = build(meta["constructor"], state)
    headless = {key: value for key, value in state.items() if not key.startswith("logvar_")}
    psi_state = state if meta["family"] == "edm" or meta.get("return_logvar") else headless
    networks = Networks(
        phi=phi.requires_grad_(False),
        psi=build(meta["constructor"], golden.under("psi/") or psi_state),
        theta=build(meta["constructor"], golden.under("theta/") or headless),
        theta_ema=build(meta["constructor"], golden.under("ema_start/") or golden.under("theta/") or headless),
    )
    networks.theta_ema.requires_grad_(False)
    return networks


def _method(meta: dict[str, Any]) -> Method:
    iterations = len(meta["iterations"])
    return Method(
        name=meta["method"],
        images=meta["start_images_seen"] + iterations * meta["batch"],
        batch=meta["batch"],
        loss_group=meta["batch_gpu"],
        alpha=float(meta["alpha"]),
        tmax=float(meta["tmax"]),
        sigma_init=float(meta["init_sigma"]),
        P_mean=meta["P_mean"],
        P_std=meta["P_std"],
        fake_score_weight=float(meta["ls"]),
        discriminator_weight=float(meta["lsd"]),
        generator_weight=float(meta["lsg"]),
        adversarial_weight=float(meta["lsg_gan"]),
        generator_from=meta["warmup_theta_images"],
        adversarial_from=meta["warmup_adversarial_images"],
        fake_score_rate=meta["lr"],
        generator_rate=meta["glr"],
        generator_beta1=meta["betas"][0],
        clip_fake_score=meta["clip"] is not None,
        forced_normalization=bool(meta.get("force_normalization")),
    ).model_copy(update={"ema_half_life": meta["ema_halflife_images"]})  # a recipe's is whole


class _LastRound(Distillation):
    """Tells the losses of an iteration's last round, as the authors' code does."""

    def _average(self, means: dict[str, Tensor], name: str, values: Tensor) -> None:
        means[name] = values.detach().mean()


def _trajectory(checks: Checks, folder: Folder, tag: str) -> None:
    golden, meta = folder.tensors(f"{tag}.safetensors"), folder.json(f"{tag}.json")
    recorded, networks, method = Recorded(golden, meta), _networks(golden, meta), _method(meta)
    processes = Processes(rank=0, world=1, device=torch.device("cpu"))
    distillation = _LastRound(networks, method, recorded, recorded, processes, meta["batch_gpu"])
    elements = golden["it0/A/r0/z"][0].numel()
    trained = {"psi": networks.psi, "theta": networks.theta, "ema": networks.theta_ema}
    starts = {which: copy.deepcopy(network.state_dict()) for which, network in trained.items()}
    for number, iteration in enumerate(meta["iterations"]):
        losses = distillation.run(iteration["images_seen_before"])
        _reported(checks, number, iteration, losses, meta, elements)
        half_life, ramp = meta["ema_halflife_images"], meta["ema_ramp"]
        beta = ema_beta(iteration["images_seen_before"], meta["batch"], half_life, ramp)
        checks.close(f"beta of iteration {number}", beta, iteration["ema_beta"], 1e-12, 1e-12)
        for which, network in trained.items():
            _compare_state(checks, golden, meta, f"it{number}/after/{which}", which, network, starts[which])
    for which, network in trained.items():
        for name, tensor in golden.under(f"final/{which}/").items():
            _whole(
                checks, f"final {which} {name}", network.state_dict()[name], tensor, starts[which][name], meta, which
            )
    _optimisers(checks, golden, meta, distillation)


def _reported(
    checks: Checks,
    number: int,
    iteration: dict[str, Any],
    losses: dict[str, Tensor],
    meta: dict[str, Any],
    elements: int,
) -> None:
    """Ours are means; the authors report sums with their weights over the whole batch's divisor.

    A term that does not act yet has no number of ours (theirs is computed, then not used).
    """
    weights = {
        "loss_psi": meta["ls"] * elements,
        "loss_D": meta["lsd"],
        "loss_sid": meta["lsg"] * elements,
        "loss_adv": meta["lsg_gan"],
    }
    share = iteration["batch_gpu"] / meta["batch"]
    for name, value in losses.items():
        scaled = value.double() * weights[name] * share
        checks.close(f"{name} of iteration {number}", scaled, iteration[f"{name}_last_round"], 0.0, LOSS)


def _compare_state(
    checks: Checks,
    golden: Golden,
    meta: dict[str, Any],
    prefix: str,
    which: str,
    network: Denoiser,
    start: dict[str, Tensor],
) -> None:
    order = meta["names"].get(which, meta["names"]["theta"])
    parameters = dict(network.named_parameters())
    kept = [index for index, name in enumerate(order) if not name.endswith("qkv.bias")]
    norms = torch.stack([parameters[order[index]].detach().double().norm() for index in kept])
    sums = torch.stack([parameters[order[index]].detach().double().sum() for index in kept])
    golden_norms = golden[f"{prefix}/norm"][kept]
    checks.close(f"{prefix} norms", norms, golden_norms, 1e-12, NORM)
    # A sum may cancel: its rounding is that of a vector of the tensor's norm, over the root of its length.
    lengths = torch.tensor([parameters[order[index]].numel() for index in kept], dtype=torch.float64)
    scale = golden_norms * lengths.sqrt() + 1e-12
    checks.close(f"{prefix} sums", sums / scale, golden[f"{prefix}/sum"][kept] / scale, NORM)
    for name, tensor in golden.under(f"{prefix}/").items():
        if name not in ("norm", "sum"):
            _whole(checks, f"{prefix} {name}", parameters[name], tensor, start[name], meta, which)


def _whole(
    checks: Checks, what: str, ours: Tensor, golden: Tensor, start: Tensor, meta: dict[str, Any], which: str
) -> None:
    """What training moved in a tensor: all but a few weights as recorded."""
    if what.endswith("qkv.bias"):
        return
    loose = meta["family"] == "edm2" and which != "psi"
    limit = WHOLE_EDM2 if loose else WHOLE
    ours, golden, start = (tensor.detach().double() for tensor in (ours, golden, start))
    difference = ours - golden
    turned = difference.abs() > limit
    checks.close(f"{what}: weights that moved otherwise", float(turned.sum()), 0.0, max(1, golden.numel() // TURNED))
    moved = float((golden - start)[~turned].norm())
    allowed = MOVED * moved + ROUNDING * float(start.norm())
    checks.close(f"{what}: difference beside movement", float(difference[~turned].norm()), 0.0, allowed)


def _optimisers(checks: Checks, golden: Golden, meta: dict[str, Any], distillation: Distillation) -> None:
    sides = {
        "psi": (distillation.networks.psi, distillation.psi_updates.adam),
        "theta": (distillation.networks.theta, distillation.theta_updates.adam),
    }
    for which, (network, optimiser) in sides.items():
        saved = golden.under(f"final/adam/{which}/")
        if not saved:
            continue
        parameters = dict(network.named_parameters())
        order = meta["names"][which]
        kept = [index for index, name in enumerate(order) if not name.endswith("qkv.bias")]
        states = [optimiser.state.get(parameters[order[index]], {}) for index in kept]
        zero = torch.zeros(())
        steps = [float(state.get("step", 0.0)) for state in states]
        norms = [float(state.get("exp_avg_sq", zero).double().norm()) for state in states]
        golden_norms = saved["exp_avg_sq_norm"][kept]
        floor = 1e-6 * float(golden_norms.max())
        checks.close(f"adam exp_avg_sq of {which}", norms, golden_norms, floor * ADAM, ADAM)
        # Where the authors pass zeros and we pass nothing, a parameter without gradient has no step of ours.
        silent = [step == 0.0 and norm == 0.0 for step, norm in zip(steps, golden_norms.tolist(), strict=True)]
        golden_steps = torch.where(torch.tensor(silent), 0.0, saved["steps"][kept])
        checks.exact(f"adam steps of {which}", steps, golden_steps)
